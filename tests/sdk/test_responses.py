"""Responses through the official Python SDK, unmodified, with the flows that its documentation shows."""

import asyncio
import json
import random
from collections.abc import Iterable
from typing import Any

import openai
import pytest
from harness.client import numbered
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

pytestmark = pytest.mark.parametrize("upstream", ["completions", "responses"])

ENDED = ("response.completed", "response.failed", "response.incomplete")
CALLS = [
    {"name": "get_weather", "arguments": {"city": "京都"}},
    {"name": "get_time", "arguments": {"zone": "Asia/Tokyo"}},
]
TOOLS: Any = [
    {
        "type": "function",
        "name": name,
        "description": "Look it up.",
        "parameters": {
            "type": "object",
            "properties": {parameter: {"type": "string"}},
            "required": [parameter],
            "additionalProperties": False,
        },
        "strict": True,
    }
    for name, parameter in (("get_weather", "city"), ("get_time", "zone"))
]

event_type = TypeAdapter[Any](ResponseStreamEvent)


def scripted(**script: Any) -> dict[str, Any]:
    """Parameters for the upstream alone; they tell the simulator what to answer."""
    return {"upstream": {"simulator": {"ttft": 0, "interval": 0, **script}}}


def checked(stream: Iterable[Any]) -> list[Any]:
    """The events of a stream, each of them valid by the SDK's types, and numbered without a gap."""
    events = list(stream)
    check(events)
    return events


def check(events: list[Any]) -> None:
    for event in events:
        event_type.validate_python(event.to_dict())
    first = events[0].sequence_number
    assert [event.sequence_number for event in events] == list(range(first, first + len(events)))


def text_of(events: Iterable[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def as_dicts(events: Iterable[Any]) -> list[Any]:
    return [event.to_dict() for event in events]


def test_a_response(client: OpenAI):
    response = client.responses.create(
        model="simulator",
        input="やっほ",
        instructions="短く。",
        metadata={"who": "me"},
        extra_body=scripted(text="ピロ ピロ"),
    )
    assert (response.status, response.output_text) == ("completed", "ピロ ピロ")
    assert (response.model, response.instructions, response.metadata) == ("simulator", "短く。", {"who": "me"})
    assert response.usage
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    Response.model_validate(response.to_dict())
    assert client.responses.retrieve(response.id) == response


def test_a_stream_has_every_event_in_its_order(client: OpenAI):
    stream = client.responses.create(
        model="simulator", input="やっほ", stream=True, extra_body=scripted(deltas=["や", "っ", "ほ"])
    )
    events = checked(stream)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[0].sequence_number == 0
    assert text_of(events) == events[-1].response.output_text == "やっほ"
    assert events[-1].response.usage.output_tokens == 3


def test_a_background_response_is_polled_until_it_has_ended(client: OpenAI, other_client: OpenAI):
    response = client.responses.create(
        model="simulator",
        input="Count to 20",
        background=True,
        extra_body=scripted(deltas=numbered(20), interval=0.02),
    )
    assert response.status in ("queued", "in_progress")
    seen = {response.status}
    while response.status in ("queued", "in_progress"):
        response = other_client.responses.retrieve(response.id)
        seen.add(response.status)
    assert (response.status, response.output_text) == ("completed", "".join(numbered(20)))
    assert seen <= {"queued", "in_progress", "completed"}


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_stream_goes_on_exactly_on_another_replica(client: OpenAI, other_client: OpenAI, seed):
    script = {"deltas": numbered(30), "interval": 0.01, "reasoning": "まず考える。", "tool_calls": CALLS}
    extra = scripted(**script, key=f"cut {seed}")
    cut_after = random.Random(seed).randrange(1, 60)
    kept: list[Any] = []
    with client.responses.create(
        model="simulator", input="Count", background=True, stream=True, tools=TOOLS, extra_body=extra
    ) as stream:
        for event in stream:
            kept.append(event)
            if len(kept) == cut_after:
                break
    response_id = kept[0].response.id
    rest = other_client.responses.retrieve(response_id, stream=True, starting_after=kept[-1].sequence_number)
    whole = kept + list(rest)
    check(whole)
    assert text_of(whole) == "".join(numbered(30))
    assert whole[-1].type == "response.completed"
    for each in (client, other_client):
        assert as_dicts(each.responses.retrieve(response_id, stream=True)) == as_dicts(whole)


async def test_a_client_that_is_cut_again_and_again_misses_nothing(urls):
    async with (
        AsyncOpenAI(base_url=urls[0], api_key="unused", max_retries=0) as one,
        AsyncOpenAI(base_url=urls[1], api_key="unused", max_retries=0) as other,
    ):
        stream: Any = await one.responses.create(
            model="simulator",
            input="Count",
            background=True,
            stream=True,
            extra_body=scripted(deltas=numbered(60), interval=0.01),
        )
        events: list[Any] = []
        for client in (other, one) * 20:
            async with stream:
                async for event in stream:
                    events.append(event)
                    if len(events) % 7 == 0:
                        break
            if events[-1].type in ENDED:
                break
            stream = await client.responses.retrieve(
                events[0].response.id, stream=True, starting_after=events[-1].sequence_number
            )
    check(events)
    assert events[-1].type == "response.completed"
    assert text_of(events) == "".join(numbered(60))


def test_the_end_has_nothing_after_it(client: OpenAI):
    events = checked(
        client.responses.create(
            model="m", input="やっほ", background=True, stream=True, extra_body=scripted(text="やっほ")
        )
    )
    last = events[-1]
    assert list(client.responses.retrieve(last.response.id, stream=True, starting_after=last.sequence_number)) == []


def test_the_streaming_helper_accumulates_and_is_resumed(client: OpenAI, other_client: OpenAI):
    with client.responses.stream(
        model="m", input="Count", background=True, extra_body=scripted(deltas=numbered(30), interval=0.01)
    ) as stream:
        kept = []
        for event in stream:
            kept.append(event)
            if len(kept) == 12:
                break
    response_id = kept[0].response.id
    with other_client.responses.stream(response_id=response_id, starting_after=kept[-1].sequence_number) as stream:
        rest = list(stream)
        final = stream.get_final_response()
    assert final.output_text == text_of(kept) + text_of(rest) == "".join(numbered(30))
    assert [event.sequence_number for event in kept + rest] == list(range(len(kept) + len(rest)))
    snapshots = [event.snapshot for event in rest if event.type == "response.output_text.delta"]
    assert snapshots[-1] == final.output_text


def test_a_cancelled_stream_ends_and_says_so(client: OpenAI, other_client: OpenAI):
    stream = client.responses.create(
        model="m", input="Count", background=True, stream=True, extra_body=scripted(tokens=10_000, interval=0.02)
    )
    events = []
    cancelled = None
    for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta" and cancelled is None:
            cancelled = other_client.responses.cancel(events[0].response.id)
    assert cancelled
    check(events)
    assert cancelled.status == "cancelled"
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "cancelled")
    assert client.responses.cancel(cancelled.id).status == client.responses.retrieve(cancelled.id).status == "cancelled"
    assert as_dicts(other_client.responses.retrieve(cancelled.id, stream=True)) == as_dicts(events)


def test_a_deleted_response_is_gone(client: OpenAI, other_client: OpenAI):
    response = client.responses.create(model="m", input="やっほ", extra_body=scripted(text="a"))
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        other_client.responses.retrieve(response.id)


async def test_a_conversation_goes_on_from_the_previous_response(async_client: AsyncOpenAI, simulator, key):
    create = async_client.responses.create
    first = await create(model="m", input="I am Aya.", instructions="Be kind.", extra_body=scripted(text="Hello, Aya."))
    second = await create(
        model="m",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "Who am I?"}]}],
        previous_response_id=first.id,
        extra_body=scripted(text="Aya.", key=key),
    )
    assert second.previous_response_id == first.id
    body = (await simulator.request(key))["body"]
    messages = body["messages"] if "messages" in body else body["input"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    said = ["I am Aya.", "Hello, Aya.", "Who am I?"]
    assert all(text in str(message) for text, message in zip(said, messages, strict=True))


@pytest.mark.parametrize("is_chained", [False, True], ids=["items", "previous_response_id"])
async def test_a_tool_loop_goes_round(async_client: AsyncOpenAI, simulator, key, is_chained):
    """The flow of the function calling guide."""
    items: list[Any] = [{"role": "user", "content": "How is Kyoto?"}]
    asked = await async_client.responses.create(
        model="m", tools=TOOLS, input=items, extra_body=scripted(tool_calls=CALLS)
    )
    assert asked.status == "completed"
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        (call["name"], call["arguments"]) for call in CALLS
    ]
    results: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"result of {call.name}"} for call in calls
    ]
    chain: dict[str, Any] = {"previous_response_id": asked.id} if is_chained else {}
    answer = await async_client.responses.create(
        model="m",
        tools=TOOLS,
        input=results if is_chained else [*items, *asked.output, *results],
        extra_body=scripted(key=key),
        **chain,
    )
    assert "result of get_time" in answer.output_text
    body = (await simulator.request(key))["body"]
    if "messages" in body:
        _, called, *outputs = body["messages"]
        ids = [call["id"] for call in called["tool_calls"]]
        assert [(output["role"], output["tool_call_id"]) for output in outputs] == [("tool", id_) for id_ in ids]
    else:
        _, *called, first, second = body["input"]
        assert [item["call_id"] for item in called] == [first["call_id"], second["call_id"]]


def test_parallel_calls_are_streamed(client: OpenAI):
    with client.responses.stream(
        model="m", input="How is Kyoto?", tools=TOOLS, extra_body=scripted(tool_calls=CALLS)
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    check(events)
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [(event.name, json.loads(event.arguments)) for event in done] == [
        (call["name"], call["arguments"]) for call in CALLS
    ]
    for event in done:
        deltas = [
            each.delta
            for each in events
            if each.type == "response.function_call_arguments.delta" and each.item_id == event.item_id
        ]
        assert "".join(deltas) == event.arguments
    assert [item.type for item in final.output] == ["function_call", "function_call"]


class CalendarEvent(BaseModel):
    name: str
    date: str
    participants: list[str]


FAIR = CalendarEvent(name="Science Fair", date="Friday", participants=["Alice", "Bob"])


def test_structured_output_is_parsed(client: OpenAI):
    extra = scripted(text=FAIR.model_dump_json())
    parsed = client.responses.parse(
        model="m",
        input=[
            {"role": "system", "content": "Extract the event information."},
            {"role": "user", "content": "Alice and Bob are going to a science fair on Friday."},
        ],
        text_format=CalendarEvent,
        extra_body=extra,
    )
    assert parsed.output_parsed == FAIR
    with client.responses.stream(model="m", input="A fair.", text_format=CalendarEvent, extra_body=extra) as stream:
        done = [event.parsed for event in stream if event.type == "response.output_text.done"]
        assert done == [FAIR]
        assert stream.get_final_response().output_parsed == FAIR


def test_reasoning_and_refusals_are_items_of_their_own(client: OpenAI):
    extra = scripted(reasoning="よく考える。", refusal="それはできません。")
    events = checked(client.responses.create(model="m", input="?", stream=True, extra_body=extra))
    reasoning, message = events[-1].response.output
    assert reasoning.type == "reasoning"
    assert "よく考える。" in str(reasoning.to_dict())
    assert message.content[0].refusal == "それはできません。"
    deltas = [event.delta for event in events if event.type == "response.refusal.delta"]
    assert "".join(deltas) == "それはできません。"


def test_log_probabilities(client: OpenAI):
    extra = scripted(tokens=4)
    events = checked(
        client.responses.create(
            model="m", input="?", stream=True, include=["message.output_text.logprobs"], extra_body=extra
        )
    )
    shown = [entry.token for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    part = events[-1].response.output[0].content[0]
    assert "".join(shown) == "".join(entry.token for entry in part.logprobs) == part.text


def test_an_answer_cut_by_its_limit_is_incomplete(client: OpenAI):
    events = checked(
        client.responses.create(
            model="m", input="?", max_output_tokens=20, stream=True, extra_body=scripted(deltas=numbered(30))
        )
    )
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert events[-1].response.output_text == "".join(numbered(20))


def test_a_failure_midway_ends_the_stream_as_failed(client: OpenAI):
    fault = {"kind": "status", "status": 400, "message": "no such thing"}
    response = client.responses.create(model="m", input="?", background=True, extra_body=scripted(fault=fault))
    events = checked(client.responses.retrieve(response.id, stream=True))
    assert events[-1].type == "response.failed"
    failed = client.responses.retrieve(response.id)
    assert failed.status == "failed"
    assert failed.error
    assert "no such thing" in failed.error.message


def test_a_refusal_of_the_upstreams_raises_where_the_client_waits(client: OpenAI):
    fault = {"kind": "status", "status": 400, "message": "no such thing"}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="no such thing"):
            client.responses.create(model="m", input="?", stream=stream, extra_body=scripted(fault=fault))
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="missing-model", input="?")


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"extra_body": {"frobnicate": 1}}, "frobnicate"),
        ({"background": True, "store": False}, "background"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_supported_is_refused_by_its_name(client: OpenAI, parameters, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="m", input="?", **parameters)
    assert caught.value.param == param
    assert param in caught.value.message


def test_what_is_not_there_is_not_found(client: OpenAI):
    unknown = "resp_" + "a" * 20
    for call in (
        lambda: client.responses.retrieve(unknown),
        lambda: client.responses.retrieve(unknown, stream=True),
        lambda: client.responses.cancel(unknown),
        lambda: client.responses.delete(unknown),
        lambda: client.responses.create(model="m", input="?", previous_response_id=unknown),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            call()
        assert caught.value.status_code in (400, 404)
        assert unknown in caught.value.message


def test_only_a_background_response_is_streamed_again(client: OpenAI):
    response = client.responses.create(model="m", input="?", extra_body=scripted(text="a"))
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.retrieve(response.id, stream=True)


def test_raw_and_streamed_http_responses(client: OpenAI):
    raw = client.responses.with_raw_response.create(model="m", input="?", extra_body=scripted(text="a"))
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.parse().output_text == "a"
    with client.responses.with_streaming_response.create(
        model="m", input="?", stream=True, extra_body=scripted(text="a")
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert names == [each["type"] for each in data]


async def test_many_readers_of_one_response_see_the_same(urls):
    async with (
        AsyncOpenAI(base_url=urls[0], api_key="unused") as one,
        AsyncOpenAI(base_url=urls[1], api_key="unused") as other,
    ):
        response = await one.responses.create(
            model="m", input="?", background=True, extra_body=scripted(deltas=numbered(40), interval=0.01)
        )

        async def read(client: AsyncOpenAI, after: int | None) -> list[Any]:
            position: dict[str, Any] = {} if after is None else {"starting_after": after}
            stream = await client.responses.retrieve(response.id, stream=True, **position)
            return [event.to_dict() async for event in stream]

        positions = (None, 0, 3, 10, 47, 1)
        readings = await asyncio.gather(*(read(client, after) for after in positions for client in (one, other)))
    whole = readings[0]
    for after, reading in zip([position for position in positions for _ in range(2)], readings, strict=True):
        assert reading == whole[0 if after is None else after + 1 :]
