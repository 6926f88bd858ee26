"""The simulator's Responses API, seen through the official SDK and through plain HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from harness.client import numbered
from openai import AsyncOpenAI

Json = dict[str, Any]
FAST: Json = {"ttft": 0, "interval": 0}
DELTAS = numbered(30)
TEXT = "".join(DELTAS)
TERMINAL = ("response.completed", "response.incomplete", "response.failed")


@pytest_asyncio.fixture
async def http(upstream_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=upstream_url, timeout=10) as client:
        yield client


@pytest_asyncio.fixture
async def sdk(upstream_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{upstream_url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def create(sdk, key):
    """Create a background response; `script` says what it answers."""

    async def create(script: Json, **params: Any):
        body = {"simulator": FAST | {"key": key} | script}
        params = {"model": "m", "input": "やっほ", "background": True, "stream": True, **params}
        return await sdk.responses.create(extra_body=body, **params)

    return create


async def everything(stream):
    """Every event of a stream that is numbered from 0 without gaps, and ends as it should."""
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    return events


def text_of(events):
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def read_until(stream, count):
    """The events up to so many deltas of text."""
    events = []
    async for event in stream:
        events.append(event)
        if sum(event.type == "response.output_text.delta" for event in events) == count:
            return events
    raise AssertionError("it ended before")


async def test_the_order_of_events(create):
    types = [event.type for event in await everything(await create({"deltas": ["a", "b"]}))]
    assert types == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_the_last_event_has_the_whole_response(create):
    calls = [{"name": "f", "arguments": {"x": 1}}]
    script = {"deltas": ["a", "b"], "reasoning": "hm", "refusal": "no", "tool_calls": calls}
    response = (await everything(await create(script)))[-1].response
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert (response.output_text, response.output[2].arguments) == ("ab", '{"x":1}')
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


async def test_the_sdks_helper_puts_it_together(sdk, key):
    body = {"simulator": FAST | {"key": key, "deltas": DELTAS}}
    async with sdk.responses.stream(model="m", input="hi", background=True, extra_body=body) as stream:
        assert (await stream.get_final_response()).output_text == TEXT


async def test_it_goes_on_without_a_listener_and_can_be_followed_from_anywhere(sdk, create, http, key):
    stream = await create({"deltas": DELTAS, "interval": 0.02})
    events = await read_until(stream, 3)
    await stream.close()
    response_id, last = events[0].response.id, events[-1].sequence_number
    rest = [event async for event in await sdk.responses.retrieve(response_id, stream=True, starting_after=last)]
    assert rest[0].sequence_number == last + 1
    assert text_of(events) + text_of(rest) == TEXT
    whole = await everything(await sdk.responses.retrieve(response_id, stream=True))
    assert [event.to_json() for event in whole] == [event.to_json() for event in [*events, *rest]]
    (response,) = (await http.get("/simulator/responses", params={"key": key})).json()
    assert response["deltas"] == 30
    requests = (await http.get("/simulator/requests", params={"key": key})).json()
    assert [request["starting_after"] for request in requests] == [None, last, None]


async def test_polling_and_cancelling(sdk, create):
    response = await create({"deltas": DELTAS, "interval": 0.2}, stream=False)
    assert response.status in ("queued", "in_progress")
    assert (await sdk.responses.retrieve(response.id)).status in ("queued", "in_progress")
    assert (await sdk.responses.cancel(response.id)).status == "cancelled"
    assert (await sdk.responses.cancel(response.id)).status == "cancelled"
    assert (await sdk.responses.retrieve(response.id)).status == "cancelled"


async def test_a_deleted_or_unknown_response_is_not_found(sdk, create):
    (first, *_) = await everything(await create({}))
    await sdk.responses.delete(first.response.id)
    for response_id in (first.response.id, "resp_x"):
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.responses.retrieve(response_id)
        assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_incomplete_response_says_why(create, finish, reason):
    last = (await everything(await create({"deltas": ["a"], "finish_reason": finish})))[-1]
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", reason)


async def test_an_error_is_the_responses_own(sdk, create):
    events = await everything(await create({"deltas": DELTAS, "fault": {"kind": "error", "after": 2}}))
    assert (events[-1].type, text_of(events)) == ("response.failed", "0 1 ")
    assert (await sdk.responses.retrieve(events[0].response.id)).status == "failed"


async def test_a_cut_is_the_connections(sdk, create):
    stream = await create({"deltas": DELTAS, "fault": {"kind": "cut", "after": 2, "times": 1}})
    events = await read_until(stream, 2)
    with pytest.raises(openai.APIConnectionError):
        await read_until(stream, 1)
    response_id, last = events[0].response.id, events[-1].sequence_number
    rest = [event async for event in await sdk.responses.retrieve(response_id, stream=True, starting_after=last)]
    assert text_of(events + rest) == TEXT


async def test_what_is_not_in_the_background_ends_with_its_connection(sdk, create, http, key):
    stream = await create({"deltas": DELTAS, "interval": 0.2}, background=False)
    await read_until(stream, 2)
    await stream.close()
    async with asyncio.timeout(5):
        while (await http.get("/simulator/responses", params={"key": key})).json()[0]["status"] != "cancelled":
            await asyncio.sleep(0.01)
    (record,) = (await http.get("/simulator/responses", params={"key": key})).json()
    with pytest.raises(openai.BadRequestError):
        await sdk.responses.retrieve(record["id"], stream=True)


async def test_a_repeated_idempotency_key_gives_the_same_response(http, key):
    body = {"model": "m", "input": "hi", "background": True, "simulator": FAST | {"key": key}}
    answers = [
        await http.post("/v1/responses", json=body | more, headers={"Idempotency-Key": key})
        for more in ({}, {}, {"input": "ho"})
    ]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert (answers[2].status_code, answers[2].json()["error"]["code"]) == (400, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": "", "background": True, "store": False}, "store"),
    ],
)
async def test_a_bad_request_is_refused_by_name(http, body, param):
    answer = await http.post("/v1/responses", content=json.dumps(body))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_response_may_be_too_old_to_be_streamed(sdk, create):
    (first, *_) = await everything(await create({"streamable": 0}))
    with pytest.raises(openai.BadRequestError, match="no longer be streamed"):
        await sdk.responses.retrieve(first.response.id, stream=True)
