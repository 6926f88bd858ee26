"""What an upstream can do wrong, and what a reader sees of it."""

import asyncio
import time

import pytest
from harness.client import body, numbered
from harness.sse import json_text_of, text_of

DELTAS = numbered(6)
ENDED_EARLY = ["cut", "truncate", "done_without_finish", "garbage", "error"]


def names(reading):
    return [event.name for event in reading.events if event.name not in ("queued", "delta")]


async def test_a_busy_upstream_is_asked_again_when_it_said(api, simulator, key):
    fault = {"kind": "status", "status": 429, "retry_after": 0.7, "times": 1}
    reading = await api.ask(body({"key": key, "deltas": DELTAS, "fault": fault}), form="json")
    assert names(reading) == ["started", "done"]
    first, second = await simulator.requests(key)
    assert second["started"] - first["closed_at"] >= 690


@pytest.mark.parametrize("status", [500, 503, 408])
async def test_a_failing_upstream_is_asked_again_within_the_attempt(api, simulator, key, status):
    fault = {"kind": "status", "status": status, "retry_after": 0.05, "times": 2}
    reading = await api.ask(body({"key": key, "deltas": DELTAS, "fault": fault}), form="json")
    assert names(reading) == ["started", "done"]
    assert json_text_of(reading.events) == "".join(DELTAS)
    assert len(await simulator.requests(key)) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_ends_the_chat_at_once(api, simulator, key, status):
    fault = {"kind": "status", "status": status, "message": "no", "type": "some_error", "code": "some_code"}
    reading = await api.ask(body({"key": key, "fault": fault}), form="json")
    assert names(reading) == ["started", "error"]
    error = reading.events[-1].json["error"]
    assert (error["message"], error["type"], error["code"]) == ("no", "some_error", "some_code")
    assert len(await simulator.requests(key)) == 1


async def test_an_upstream_that_keeps_failing_ends_the_chat_in_an_error(api, simulator, key):
    fault = {"kind": "status", "status": 500, "message": "down", "retry_after": 0.01}
    reading = await api.ask(body({"key": key, "fault": fault}))
    assert [event.name for event in reading.events] == ["error"]
    assert reading.events[0].json["error"]["message"] == "down"
    assert len(await simulator.requests(key)) == 3


@pytest.mark.parametrize("kind", ENDED_EARLY)
async def test_a_broken_answer_is_restarted(api, simulator, key, kind):
    fault = {"kind": kind, "after": 3, "times": 1}
    posted = body({"key": key, "deltas": DELTAS, "fault": fault})
    reading = await api.ask(posted)
    assert [event.name for event in reading.events] == ["", "", "", "restart", *[""] * 6, "done"]
    assert reading.events[3].raw.decode() == f"event: restart\nid: {reading.events[3].id}\ndata: \n\n"
    assert text_of(reading.events) == "".join(DELTAS)
    assert len(await simulator.requests(key)) == 2
    chat = await api.chat(reading.chat_id)
    assert (chat["status"], chat["attempts"], chat["text"]) == ("done", 2, "".join(DELTAS))


@pytest.mark.parametrize("kind", ENDED_EARLY)
async def test_an_answer_that_keeps_breaking_is_an_error_and_never_done(impatient_api, simulator, key, kind):
    posted = body({"key": key, "deltas": DELTAS, "fault": {"kind": kind, "after": 3}})
    reading = await impatient_api.ask(posted, form="json")
    assert names(reading) == ["started", "restart", "error"]
    restart = next(event for event in reading.events if event.name == "restart").json
    assert restart["attempt"] == 2
    assert isinstance(restart["reason"], str)
    assert len(await simulator.requests(key)) == 2
    assert json_text_of(reading.events) == "".join(DELTAS[:3])
    chat = await impatient_api.chat(reading.chat_id)
    assert (chat["status"], chat["attempts"], chat["error"]) == ("failed", 2, reading.events[-1].json["error"])


async def test_an_answer_with_all_its_deltas_but_no_finish_reason_is_not_done(api):
    posted = body({"deltas": DELTAS, "fault": {"kind": "truncate", "after": 99, "times": 1}})
    reading = await api.ask(posted, form="json")
    assert names(reading) == ["started", "restart", "done"]
    assert json_text_of(reading.events) == "".join(DELTAS)


async def test_an_answer_cut_after_its_finish_reason_is_done_without_usage(api):
    reading = await api.ask(body({"deltas": DELTAS, "fault": {"kind": "cut", "after": 99}}), form="json")
    assert names(reading) == ["started", "done"]
    assert reading.events[-1].json == {"finish_reason": "stop", "usage": None}
    assert json_text_of(reading.events) == "".join(DELTAS)


async def test_a_silent_upstream_is_given_up(impatient_api, simulator, key):
    posted = body({"key": key, "deltas": DELTAS, "fault": {"kind": "stall", "after": 3, "times": 1}})
    reading = await impatient_api.ask(posted, form="json")
    assert names(reading) == ["started", "restart", "done"]
    assert json_text_of(reading.events) == "".join(DELTAS)
    first, _ = await simulator.requests(key)
    assert first["outcome"] == "client_closed"
    assert 900 < first["closed_at"] - first["started"] < 5000


async def test_an_upstream_without_headers_is_given_up(impatient_api):
    begun = time.monotonic()
    reading = await impatient_api.ask(body({"deltas": DELTAS, "fault": {"kind": "slow_headers"}}))
    assert [event.name for event in reading.events] == ["error"]
    assert time.monotonic() - begun < 8


async def test_a_chat_that_runs_too_long_is_an_error(impatient_api, simulator, key):
    posted = body({"key": key, "deltas": numbered(1000), "interval": 0.05})
    begun = time.monotonic()
    reading = await impatient_api.ask(posted)
    assert 2.5 < time.monotonic() - begun < 8
    assert reading.events[-1].name == "error"
    assert reading.events[-1].json["error"]["code"] == "job_timeout"
    assert await simulator.outcome(key) == "client_closed"


async def test_an_answer_that_is_too_long_is_an_error(impatient_api, simulator, key):
    posted = body({"key": key, "deltas": ["x" * 1000], "tokens": 1000, "interval": 0.01})
    reading = await impatient_api.ask(posted)
    assert reading.events[-1].name == "error"
    assert reading.events[-1].json["error"]["code"] == "output_too_long"
    assert len(text_of(reading.events)) <= 20_000
    assert await simulator.outcome(key) == "client_closed"


HARMLESS = [
    "{}",
    '{"choices": null}',
    '{"choices": {"0": 1}}',
    '{"choices": [null]}',
    '{"choices": [[]]}',
    '{"choices": [{"delta": null}]}',
    '{"choices": [{"delta": "x"}]}',
    '{"choices": [{"delta": {"content": 5}}]}',
    '{"choices": [{"delta": {"content": ["a"]}}]}',
    '{"choices": [{"delta": {"x": "\\ud83d", "\\ud83d": 1}}]}',
    '{"choices": [{"delta": {}, "finish_reason": 7}]}',
    '{"choices": [], "usage": "x"}',
]
USELESS = [
    "hello",
    "[]",
    "5",
    "null",
    '{"choices": [{"delta": {"x": NaN}}]}',
    '{"choices": [{"delta": {"x": 1e999}}]}',
    '{"error": "boom"}',
    '{"error": {"message": 5, "code": {"a": 1}}}',
    '{"error": {"message": "\\ud83d"}}',
]


async def end_after(client, frame):
    """How a chat ends whose upstream says `frame` between two deltas."""
    fault = {"kind": "garbage", "after": 1, "text": f"data: {frame}\n\n"}
    reading = await client.ask(body({"deltas": ["p", "q"], "fault": fault}), form="json")
    chat = await client.chat(reading.chat_id)
    return frame, reading.events[-1].name, chat["status"]


@pytest.mark.parametrize(
    ("frames", "end", "status"), [(HARMLESS, "done", "done"), (USELESS, "error", "failed")], ids=["harmless", "useless"]
)
async def test_a_chat_ends_whatever_shape_a_chunk_has(impatient_api, frames, end, status):
    ends = await asyncio.gather(*(end_after(impatient_api, frame) for frame in frames))
    assert ends == [(frame, end, status) for frame in frames]


async def test_a_chunk_that_was_stored_can_be_read_however_deep_it_is(impatient_api):
    frames = [f'{{"choices": [{{"delta": {{"x": {"[" * depth}{"]" * depth}}}}}]}}' for depth in range(930, 1000, 4)]
    for _, end, status in await asyncio.gather(*(end_after(impatient_api, frame) for frame in frames)):
        assert (end, status) in [("done", "done"), ("error", "failed")]


async def test_an_unreachable_upstream_is_an_error(start_stack, connect):
    stack = start_stack(workers=0)
    stack.set_environment(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    stack.start_worker()
    reading = await connect(stack.apis[0].url).ask(body())
    assert [event.name for event in reading.events] == ["error"]
