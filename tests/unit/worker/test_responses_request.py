"""What a Chat Completions request becomes; the SDK's own types judge the result."""

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import ConfigDict, TypeAdapter, with_config

from worker.responses_request import Untranslatable, translate_request

USER = {"role": "user", "content": "hi"}


def translated(messages=(USER,), **params):
    return translate_request({"model": "m", "messages": list(messages), "stream": True, **params})


def added(**params):
    """What the parameters add to the request."""
    plain = translated()
    return {name: value for name, value in translated(**params).items() if plain.get(name) != value}


def test_it_is_a_background_request_that_is_stored_and_streamed():
    assert translated(stream_options={"include_usage": True}) == {
        "model": "m",
        "input": [USER],
        "stream": True,
        "background": True,
        "store": True,
    }


@pytest.mark.parametrize(
    ("message", "items"),
    [
        (USER, [USER]),
        ({"role": "system", "content": "be"}, [{"role": "system", "content": "be"}]),
        (
            {"role": "developer", "content": [{"type": "text", "text": "be"}]},
            [{"role": "developer", "content": [{"type": "input_text", "text": "be"}]}],
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
                    {"type": "image_url", "image_url": {"url": "data:b", "detail": "low"}},
                    {"type": "file", "file": {"file_id": "f"}},
                ],
            },
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "look"},
                        {"type": "input_image", "image_url": "https://x/a.png", "detail": "auto"},
                        {"type": "input_image", "image_url": "data:b", "detail": "low"},
                        {"type": "input_file", "file_id": "f"},
                    ],
                }
            ],
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{1}"}},
                ],
            },
            [
                {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{1}"},
            ],
        ),
        (
            {"role": "assistant", "content": "so", "refusal": "no", "reasoning_content": "hm"},
            [
                {
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "so"}, {"type": "refusal", "refusal": "no"}],
                }
            ],
        ),
        (
            {"role": "tool", "tool_call_id": "a", "content": "42"},
            [{"type": "function_call_output", "call_id": "a", "output": "42"}],
        ),
        (
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "42"}]},
            [{"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "42"}]}],
        ),
    ],
)
def test_messages_become_items(message, items):
    assert translated([message])["input"] == items


SCHEMA = {"name": "s", "schema": {"type": "object"}, "strict": True}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("params", "result"),
    [
        ({"max_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_completion_tokens": 6, "max_tokens": 5}, {"max_output_tokens": 6}),
        ({"temperature": 0.5, "top_p": 1, "user": "u"}, {"temperature": 0.5, "top_p": 1, "user": "u"}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        (
            {"reasoning_effort": "low", "reasoning": {"summary": "auto"}},
            {"reasoning": {"effort": "low", "summary": "auto"}},
        ),
        ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
        ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
            {"text": {"format": {"type": "json_schema", **SCHEMA}}},
        ),
        (
            {"tools": [{"type": "function", "function": FUNCTION}]},
            {"tools": [{"type": "function", **FUNCTION, "strict": False}]},
        ),
        ({"tools": [{"type": "web_search"}]}, {"tools": [{"type": "web_search"}]}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tool_choice": {"type": "function", "name": "f"}},
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
                }
            },
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "f"}],
                }
            },
        ),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        (
            {"logprobs": True, "top_logprobs": 3},
            {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
        ),
        ({"logprobs": False}, {}),
        (
            {"stream_options": {"include_usage": True, "include_obfuscation": False}},
            {"stream_options": {"include_obfuscation": False}},
        ),
        ({"n": 1, "stop": None, "frequency_penalty": 0, "store": True, "modalities": ["text"]}, {}),
        ({"whatever": {"a": 1}}, {"whatever": {"a": 1}}),
    ],
)
def test_parameters_are_carried_over(params, result):
    assert added(**params) == result


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"n": 2}, "n"),
        ({"stop": ["x"]}, "stop"),
        ({"seed": 0}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {}}, "audio"),
        ({"prediction": {}}, "prediction"),
        ({"store": False}, "store"),
        ({"functions": [FUNCTION]}, "functions"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0]"),
        ({"messages": [USER, {"role": "function", "name": "f", "content": ""}]}, "messages[1].name"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "", "name": "me"}]}, "messages[0].name"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(params, param):
    with pytest.raises(Untranslatable) as caught:
        translated(**params)
    assert caught.value.param == param


def test_the_sdk_takes_both_for_what_they_are():
    """One request with everything, validated as the SDK's own parameters before and after."""
    request = {
        "model": "gpt-4o-mini",
        "stream": True,
        "messages": [
            {"role": "system", "content": "be"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
                ],
            },
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "42"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": SCHEMA},
        "reasoning_effort": "low",
        "max_completion_tokens": 10,
        "logprobs": True,
        "top_logprobs": 2,
        "metadata": {"a": "b"},
    }
    strict = with_config(ConfigDict(extra="ignore"))
    TypeAdapter(strict(CompletionCreateParamsStreaming)).validate_python(request)
    body = translate_request(request)
    TypeAdapter(strict(ResponseCreateParamsStreaming)).validate_python(body)
    assert body.keys() <= ResponseCreateParamsStreaming.__annotations__.keys() | _inherited()


def _inherited():
    return {name for base in ResponseCreateParamsStreaming.__orig_bases__ for name in base.__annotations__}
