"""Chat Completions through the official Python SDK, unmodified, with the flows that its documentation shows."""

import json
from typing import Any, Literal

import openai
import pytest
from harness.client import numbered
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

pytestmark = pytest.mark.parametrize("upstream", ["completions", "responses"])

USER: Any = [{"role": "user", "content": "やっほ"}]
CALLS = [
    {"name": "get_weather", "arguments": {"city": "京都"}},
    {"name": "get_time", "arguments": {"zone": "Asia/Tokyo"}},
]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {parameter: {"type": "string"}},
                "required": [parameter],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
    for name, parameter in (("get_weather", "city"), ("get_time", "zone"))
]


def scripted(**script: Any) -> dict[str, Any]:
    """An extra parameter that tells the simulator what to answer."""
    return {"simulator": {"ttft": 0, "interval": 0, **script}}


def text_of(completion: ChatCompletion) -> str | None:
    return completion.choices[0].message.content


def joined(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_a_completion(client: OpenAI):
    completion = client.chat.completions.create(
        model="simulator", messages=USER, temperature=0.2, extra_body=scripted(text="ピロ ピロ")
    )
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "ピロ ピロ", "stop")
    assert completion.model == "simulator"
    assert completion.usage
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    ChatCompletion.model_validate(completion.to_dict(), strict=True)


def test_a_stream(client: OpenAI):
    stream = client.chat.completions.create(
        model="simulator", messages=USER, stream=True, extra_body=scripted(deltas=numbered(50))
    )
    chunks = list(stream)
    assert joined(chunks) == "".join(numbered(50))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 51 + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert not any(chunk.usage for chunk in chunks)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.to_dict(), strict=True)


async def test_the_asynchronous_client_reads_the_same(async_client: AsyncOpenAI):
    create = async_client.chat.completions.create
    extra = scripted(deltas=numbered(20))
    completion = await create(model="simulator", messages=USER, extra_body=extra)
    stream = await create(model="simulator", messages=USER, stream=True, extra_body=extra)
    assert joined([chunk async for chunk in stream]) == text_of(completion) == "".join(numbered(20))


def test_a_whole_and_a_streamed_completion_say_the_same(client: OpenAI):
    extra = scripted(reasoning="よく考える。", text="答えは三です。", tool_calls=CALLS)
    whole = client.chat.completions.create(model="m", messages=USER, tools=TOOLS, extra_body=extra)
    with client.chat.completions.stream(model="m", messages=USER, tools=TOOLS, extra_body=extra) as stream:
        streamed = stream.get_final_completion()

    def said(completion: Any) -> Any:
        message = completion.choices[0].message
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
        return message.content, message.reasoning_content, calls, completion.choices[0].finish_reason

    assert said(whole) == said(streamed)
    assert said(whole)[2] == [(call["name"], call["arguments"]) for call in CALLS]


def test_usage_comes_last_if_it_is_asked_for(client: OpenAI):
    stream = client.chat.completions.create(
        model="simulator",
        messages=USER,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=scripted(tokens=5),
    )
    *chunks, last = stream
    assert last.choices == []
    assert last.usage
    assert last.usage.completion_tokens == 5
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_log_probabilities(client: OpenAI):
    extra = scripted(tokens=4)
    whole = client.chat.completions.create(model="m", messages=USER, logprobs=True, extra_body=extra)
    with client.chat.completions.stream(model="m", messages=USER, logprobs=True, extra_body=extra) as stream:
        events = list(stream)
        streamed = stream.get_final_completion()
    for completion in (whole, streamed):
        logprobs = completion.choices[0].logprobs
        assert logprobs
        assert "".join(entry.token for entry in logprobs.content or ()) == completion.choices[0].message.content
    assert sum(event.type == "logprobs.content.delta" for event in events) == 4
    assert sum(event.type == "logprobs.content.done" for event in events) == 1


def test_a_refusal(client: OpenAI):
    extra = scripted(refusal="それはできません。")
    whole = client.chat.completions.create(model="m", messages=USER, extra_body=extra)
    assert (whole.choices[0].message.refusal, text_of(whole)) == ("それはできません。", None)
    with client.chat.completions.stream(model="m", messages=USER, extra_body=extra) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "refusal.delta"]
    (done,) = (event for event in events if event.type == "refusal.done")
    assert "".join(deltas) == done.refusal == "それはできません。"


def test_reasoning_is_passed_on(client: OpenAI):
    extra = scripted(reasoning="まず考える。", text="はい。")
    stream = client.chat.completions.create(model="m", messages=USER, stream=True, extra_body=extra)
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "まず考える。"
    assert "".join(delta.content or "" for delta in deltas) == "はい。"


def test_an_answer_cut_by_its_limit_says_length(client: OpenAI):
    completion = client.chat.completions.create(
        model="m", messages=USER, max_completion_tokens=3, extra_body=scripted(deltas=["1", "2", "3", "4"])
    )
    assert (text_of(completion), completion.choices[0].finish_reason) == ("123", "length")


class Step(BaseModel):
    explanation: str
    output: str


class MathResponse(BaseModel):
    steps: list[Step]
    final_answer: str


MATH = MathResponse(steps=[Step(explanation="Add.", output="1 + 2 = 3")], final_answer="三")


def test_structured_output_is_parsed(client: OpenAI):
    extra = scripted(text=MATH.model_dump_json(), fragment=11)
    completion = client.chat.completions.parse(model="m", messages=USER, response_format=MathResponse, extra_body=extra)
    assert completion.choices[0].message.parsed == MATH
    with client.chat.completions.stream(
        model="m", messages=USER, response_format=MathResponse, extra_body=extra
    ) as stream:
        partial = [event.parsed for event in stream if event.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.parsed == MATH
    assert len(partial) > 3


def test_structured_output_that_was_cut_is_an_error_of_the_sdk(client: OpenAI):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="m",
            messages=USER,
            response_format=MathResponse,
            max_completion_tokens=2,
            extra_body=scripted(text=MATH.model_dump_json()),
        )


class Query(BaseModel):
    table: Literal["orders", "customers"]
    columns: list[str]


def test_tools_of_pydantic_models_are_parsed(client: OpenAI):
    arguments = {"table": "orders", "columns": ["id", "status"]}
    completion = client.chat.completions.parse(
        model="m",
        messages=USER,
        tools=[openai.pydantic_function_tool(Query)],
        extra_body=scripted(tool_calls=[{"name": "Query", "arguments": arguments}]),
    )
    (call,) = completion.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == Query(**arguments)


async def test_the_streaming_helper_gives_its_events(async_client: AsyncOpenAI):
    async with async_client.chat.completions.stream(
        model="m", messages=USER, extra_body=scripted(deltas=["や", "っ", "ほ"])
    ) as stream:
        events = [event async for event in stream]
        completion = await stream.get_final_completion()
    shown = [event.snapshot for event in events if event.type == "content.delta" and event.delta]
    assert shown == ["や", "やっ", "やっほ"]
    (done,) = (event for event in events if event.type == "content.done")
    assert done.content == text_of(completion) == "やっほ"


async def test_the_streaming_helper_gathers_parallel_tool_calls(async_client: AsyncOpenAI):
    async with async_client.chat.completions.stream(
        model="m", messages=USER, tools=TOOLS, extra_body=scripted(tool_calls=CALLS, fragment=7)
    ) as stream:
        events = [event async for event in stream]
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.index, event.name, event.parsed_arguments) for event in done] == [
        (index, call["name"], call["arguments"]) for index, call in enumerate(CALLS)
    ]
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(event.arguments_delta for event in deltas if event.index == 0) == done[0].arguments


def test_a_tool_loop_goes_round(client: OpenAI):
    messages: list[Any] = list(USER)
    asked = client.chat.completions.create(
        model="m", messages=messages, tools=TOOLS, extra_body=scripted(tool_calls=CALLS)
    ).choices[0]
    assert asked.finish_reason == "tool_calls"
    messages.append(asked.message)
    for call in asked.message.tool_calls or ():
        assert call.type == "function"
        given = json.loads(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"result for {given}"})
    answer = text_of(client.chat.completions.create(model="m", messages=messages, tools=TOOLS, extra_body=scripted()))
    assert "Asia/Tokyo" in (answer or "")


def test_the_raw_response_has_headers_and_the_completion(client: OpenAI):
    raw = client.chat.completions.with_raw_response.create(model="m", messages=USER, extra_body=scripted(text="a"))
    assert raw.status_code == 200
    assert raw.headers["content-type"].startswith("application/json")
    assert text_of(raw.parse()) == "a"


def test_the_streaming_response_is_read_line_by_line(client: OpenAI):
    with client.chat.completions.with_streaming_response.create(
        model="m", messages=USER, stream=True, extra_body=scripted(deltas=["a", "b"])
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: {") for line in lines[:-1])
    assert lines[-1] == "data: [DONE]"


def test_the_first_chunk_arrives_long_before_the_last(client: OpenAI):
    with client.chat.completions.create(
        model="m", messages=USER, stream=True, extra_body=scripted(fault={"kind": "stall", "after": 2})
    ) as stream:
        assert joined([next(stream) for _ in range(3)])
