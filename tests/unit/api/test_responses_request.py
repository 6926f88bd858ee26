"""What of a Responses body goes to the upstream, what is echoed, and what is refused by its name."""

import json
from typing import get_type_hints

import pytest
from openai.types.responses import ResponseItem
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from api.errors import ApiError
from api.responses.history import history_of, input_items
from api.responses.items import references_of
from api.responses.request import parse_request
from api.responses.shape import Head
from shared import json_text

ITEM = TypeAdapter(ResponseItem)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
USER = {"role": "user", "content": "hi"}


def parse(**body):
    return parse_request({"input": "hi", **body}, "default-model")


def upstream(**body):
    return parse(**body).upstream_request([])


def messages(*items):
    return upstream(input=list(items))["messages"]


def test_the_least_request():
    assert upstream() == {
        "model": "default-model",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_parameters_are_translated():
    request = upstream(
        model="mine",
        instructions="Be brief.",
        temperature=0.5,
        top_p=1,
        max_output_tokens=9,
        tools=[TOOL],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"},
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="flex",
        top_logprobs=2,
        metadata={"a": "b"},
        truncation="disabled",
        stream_options={"include_obfuscation": True},
        store=True,
        include=["reasoning.encrypted_content"],
    )
    assert request == {
        "model": "mine",
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "temperature": 0.5,
        "top_p": 1,
        "max_completion_tokens": 9,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
        "verbosity": "low",
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "service_tier": "flex",
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_upstreams_refuse_without_tools_is_left_out():
    request = upstream(tool_choice="auto", parallel_tool_calls=True, tools=[])
    assert not {"tool_choice", "parallel_tool_calls", "tools"} & request.keys()
    assert upstream(tool_choice="required")["tool_choice"] == "required"


def test_allowed_tools_are_translated():
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert upstream(tools=[TOOL], tool_choice=choice)["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": allowed,
    }


def test_logprobs_are_asked_for_by_include_alone():
    asked = parse(include=["message.output_text.logprobs"])
    assert asked.shows_logprobs
    assert asked.upstream_request([])["logprobs"] is True


def test_what_is_meant_for_the_upstream_passes_as_it_is():
    assert upstream(upstream={"seed": 1, "x": {"y": None}}).items() >= {"seed": 1, "x": {"y": None}}.items()


def test_messages_of_all_roles_and_parts():
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}
    assert messages(
        {"role": "developer", "content": "Rules"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "two", "annotations": [], "logprobs": []}]},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}, image, file]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ) == [
        {"role": "developer", "content": "Rules"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "three"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
            ],
        },
        {"role": "assistant", "content": None, "refusal": "no"},
    ]


def call(id_):
    return {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}


def output(id_):
    return {"type": "function_call_output", "call_id": id_, "output": f"of {id_}"}


def chat_call(id_):
    return {"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_turn_with_tools_becomes_one_assistant_message_and_its_outputs():
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm"}],
    }
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]}
    assert messages(USER, reasoning, said, call("a"), call("b"), output("a"), output("b"), USER) == [
        USER,
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [chat_call("a"), chat_call("b")],
            "reasoning_content": "Hm",
        },
        {"role": "tool", "tool_call_id": "a", "content": "of a"},
        {"role": "tool", "tool_call_id": "b", "content": "of b"},
        USER,
    ]


def test_reasoning_without_calls_is_not_given_back():
    reasoning = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    assert messages(reasoning, {"role": "assistant", "content": "a"}, USER)[0] == {"role": "assistant", "content": "a"}


def test_two_messages_of_the_assistant_stay_two():
    said = {"role": "assistant", "content": "a"}
    assert messages(said, said) == [said, said]


REFUSED = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading", "unsupported_parameter"),
    ({"tools": [{**TOOL, "x": 1}]}, "tools[0].x", "unknown_parameter"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type", "unsupported_parameter"),
    ({"tool_choice": "any"}, "tool_choice", "invalid_value"),
    ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
    ({"truncation": "x"}, "truncation", "invalid_value"),
    ({"background": True, "store": False}, "background", "invalid_value"),
    ({"background": "yes"}, "background", "invalid_type"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"max_output_tokens": True}, "max_output_tokens", "invalid_type"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"include": ["x"]}, "include[0]", "invalid_value"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "invalid_value"),
    ({"reasoning": {"summary": "x"}}, "reasoning.summary", "invalid_value"),
    ({"reasoning": {"summary": "concise"}}, "reasoning.summary", "unsupported_parameter"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "unsupported_parameter"),
    ({"reasoning": {"x": 1}}, "reasoning.x", "unknown_parameter"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_value"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "missing_required_parameter"),
    ({"stream_options": {"include_usage": True}}, "stream_options.include_usage", "unknown_parameter"),
    ({"upstream": {"messages": []}}, "upstream.messages", "invalid_value"),
    ({"upstream": {"temperature": 1}, "temperature": 1}, "upstream.temperature", "invalid_value"),
    ({"seed": 1}, "seed", "unknown_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
    ({"model": "\ud83d"}, "model", "invalid_value"),
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": 1}, "input", "invalid_type"),
    ({"input": [1]}, "input[0]", "invalid_type"),
    ({"input": [{"role": "tool", "content": ""}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].type", "invalid_value"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input[0].content[0].file_id",
        "unsupported_parameter",
    ),
    ({"input": [{"type": "item_reference"}]}, "input[0].id", "missing_required_parameter"),
    ({"input": [{"type": 1}]}, "input[0].type", "invalid_type"),
    ({"input": [{"type": "computer_call"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name", "missing_required_parameter"),
    (
        {"input": [{**output("a"), "output": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].output",
        "unsupported_parameter",
    ),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED)
def test_what_is_not_supported_is_refused_by_its_name(body, param, code):
    with pytest.raises(ApiError) as caught:
        parse(**body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert param.partition(".")[0].partition("[")[0] in caught.value.message


# What each of OpenAI's parameters could be sent as, so that none of them is passed over.
SAMPLES = {
    "access_programs": {"cyber": "standard"},
    "background": True,
    "background_options": {"completion_window": "soonest"},
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {},
    "include": ["message.output_text.logprobs"],
    "input": "hello",
    "instructions": "x",
    "max_output_tokens": 5,
    "max_tool_calls": 1,
    "metadata": {"a": "b"},
    "model": "x",
    "moderation": {"model": "x"},
    "parallel_tool_calls": False,
    "previous_response_id": "resp_1",
    "prompt": {"id": "x"},
    "prompt_cache_key": "x",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "low"},
    "safety_identifier": "x",
    "service_tier": "flex",
    "store": False,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "temperature": 0.5,
    "text": {"verbosity": "low"},
    "tool_choice": "none",
    "tools": [TOOL],
    "top_logprobs": 1,
    "top_p": 0.5,
    "truncation": "auto",
    "user": "u",
}
WITHOUT_A_TRACE = {"stream_options"}
"""Obfuscation pads events against listeners on the way; there is none, be it asked for or not."""


def test_the_samples_are_all_that_openai_knows():
    assert SAMPLES.keys() == get_type_hints(ResponseCreateParamsNonStreaming).keys()


@pytest.mark.parametrize("name", SAMPLES.keys() - WITHOUT_A_TRACE)
def test_no_parameter_of_openais_is_ignored_in_silence(name):
    least = parse()
    try:
        asked = parse(**{name: SAMPLES[name]})
    except ApiError as error:
        assert (error.status, error.param) == (400, name)  # noqa: PT017  # either is well
        return
    assert (asked.upstream_request([]), asked.echo, asked.stream) != (least.upstream_request([]), least.echo, False)


def test_references_stand_for_the_items_that_they_name():
    said = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "yo"}]}
    known = {"msg_1": said, "fc_1": {**call("a"), "id": "fc_1"}}
    items = [USER, {"type": "item_reference", "id": "msg_1"}, {"id": "fc_1"}, output("a")]
    assert references_of(items) == ["msg_1", "fc_1"]
    asked = parse_request({"input": items}, "m", known)
    assert asked.messages == messages(USER, said, call("a"), output("a"))
    with pytest.raises(ApiError) as caught:
        parse(input=items)
    assert (caught.value.status, caught.value.param) == (404, "input[1].id")
    with pytest.raises(ApiError) as caught:
        parse_request({"input": [*items, {"id": "msg_1"}]}, "m", known)
    assert (caught.value.status, caught.value.param) == (400, "input[4].id")


@pytest.mark.parametrize("items", [None, "hi", [1, None], [{"type": "item_reference", "id": 1}], {"id": "x"}])
def test_no_references_are_found_in_what_has_none(items):
    assert references_of(items) == []


def made(**body):
    asked = parse(**body)
    head = Head.of("chat_abcdefghijklmnopqrst", asked.model, 0, asked.origin)
    return head, json_text.dumps(asked.upstream_request([]))


def test_the_history_is_the_conversation_without_instructions_and_the_output():
    head, request = made(instructions="Be brief.")
    said = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant"}
    parts = [{"type": "output_text", "text": "yo", "annotations": [], "logprobs": []}]
    calls = [
        {"id": "fc_1", "status": "completed", **call("a")},
        {"id": "fc_2", "status": "incomplete", **call("b"), "arguments": "{"},
    ]
    assert history_of(head, request, [{**said, "content": parts}, *calls]) == [
        USER,
        {"role": "assistant", "content": "yo", "tool_calls": [chat_call("a")]},
    ]


def test_input_items_are_valid_by_the_types_of_the_sdk_and_stand_for_the_same_messages():
    reasoning = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    image = {"type": "input_image", "image_url": "https://x/y.png"}
    items = [USER, {"role": "user", "content": [{"type": "input_text", "text": "a"}, image]}]
    items += [
        reasoning,
        {"role": "assistant", "content": "b"},
        call("a"),
        output("a"),
        {"role": "system", "content": "c"},
    ]
    head, request = made(input=items, instructions="Be brief.")
    listed = input_items(head, request)
    for item in listed:
        assert ITEM.validate_json(json.dumps(item), strict=True).type == item["type"]
    assert len({item["id"] for item in listed}) == len(listed) == 7
    again = messages(*listed)
    again[1]["content"][1]["image_url"].pop("detail")
    assert again == json.loads(request)["messages"][1:]
