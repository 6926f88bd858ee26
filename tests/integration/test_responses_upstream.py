"""An upstream that speaks the Responses API: what it generates, it generates once, whatever dies on the way."""

import asyncio
import json
import signal
from itertools import accumulate
from unittest.mock import ANY

import pytest
from harness.client import body, numbered
from harness.polling import wait_until
from harness.sse import json_text_of

LEASE = 1.0
DELTAS = numbered(60)
TEXT = "".join(DELTAS)


@pytest.fixture(scope="module")
def module_stack(start_module_stack):
    return start_module_stack(upstream="responses", lease=LEASE, drain=1, max_attempts=4, stall_timeout=5)


@pytest.fixture
def relay(module_stack):
    """A stack with one worker, whatever the test before it did to its workers."""
    module_stack.leave_one_worker()
    return module_stack


@pytest.fixture
def api(relay, connect):
    return connect(relay.apis[0].url)


def slow(key, **script):
    """A chat of 60 deltas, which take three seconds."""
    return body({"key": key, "deltas": DELTAS, "interval": 0.05, **script})


def has(count):
    """Whether so many deltas have been read."""
    return lambda reading: json_text_of(reading.events).startswith("".join(DELTAS[:count]))


def progress(reading):
    """The names of the events that are neither deltas nor places in the queue."""
    return [event.name for event in reading.events if event.name not in ("queued", "delta")]


async def positions(simulator, key):
    """After which event each request to follow a response asked to begin."""
    requests = await simulator.requests(key)
    return [request["starting_after"] for request in requests if request["operation"] == "response.stream"]


async def sent_by_each(simulator, key):
    """How many deltas went over each connection."""
    return [request["deltas_sent"] for request in await simulator.requests(key)]


async def count_of(simulator, key, operation):
    return sum(request["operation"] == operation for request in await simulator.requests(key))


async def test_an_answer_is_the_same_as_over_chat_completions(api, stack, connect, key):
    posted = body({"key": key, "text": "やっほー、元気？", "reasoning": "He says hello.", "refusal": "No more."})
    readings = [await client.ask(posted, form="json") for client in (api, connect(stack.apis[0].url))]
    joined = [deltas_of(reading) for reading in readings]
    assert joined[0] == joined[1]
    assert joined[0]["reasoning_content"] == "He says hello."
    assert [reading.events[-1].json["finish_reason"] for reading in readings] == ["stop", "stop"]
    usages = [reading.events[-1].json["usage"] for reading in readings]
    assert usages[0]["completion_tokens"] == usages[1]["completion_tokens"]


def deltas_of(reading):
    """What all deltas say, member by member."""
    said = {}
    for event in reading.events:
        if event.name == "delta":
            for name, value in event.json.items():
                said[name] = said.get(name, "") + (value or "")
    return said


async def test_parallel_tool_calls_are_numbered_from_zero(api, key):
    calls = [{"name": "weather", "arguments": {"city": "京都"}}, {"name": "time", "arguments": {}}]
    reading = await api.ask(body({"key": key, "reasoning": "hm", "tool_calls": calls}), form="json")
    assert tool_calls_of(reading) == [("weather", '{"city":"京都"}'), ("time", "{}")]
    assert reading.events[-1].json["finish_reason"] == "tool_calls"


def tool_calls_of(reading):
    names, arguments = [], []
    for event in reading.events:
        for call in event.json.get("tool_calls", ()) if event.name == "delta" else ():
            if "id" in call:
                assert call["index"] == len(names)
                names.append(call["function"]["name"])
                arguments.append("")
            arguments[call["index"]] += call["function"]["arguments"]
    return list(zip(names, arguments, strict=True))


@pytest.mark.parametrize("deltas", [1, 7, 30])
@pytest.mark.parametrize("choice", ["restart", "continue"])
async def test_a_killed_workers_answer_is_resumed(relay, api, simulator, key, deltas, choice):
    async with api.posting(slow(key, interval=0.1), form="json", x_piropiro_on_worker_loss=choice) as reading:
        await reading.until(has(deltas))
        (doomed,) = relay.workers
        relay.start_worker()
        relay.kill_worker(doomed)
        await reading.rest()
    assert progress(reading) == ["started", "started", "done"]
    assert json_text_of(reading.events) == TEXT
    response = await simulator.response(key)
    assert (response["deltas"], response["status"]) == (60, "completed")
    (position,) = await positions(simulator, key)
    assert position >= deltas
    chat = await api.chat(reading.chat_id)
    assert (chat["text"], chat["attempts"], chat["usage"]["completion_tokens"]) == (TEXT, 2, 60)


async def test_a_worker_killed_before_it_knew_the_response_asks_for_the_same_one(relay, api, simulator, key):
    fault = {"kind": "slow_headers", "times": 1}
    async with api.posting(body({"key": key, "deltas": DELTAS, "fault": fault}), form="json") as reading:
        await wait_until(lambda: simulator.running(key))
        (doomed,) = relay.workers
        relay.start_worker()
        relay.kill_worker(doomed)
        await reading.rest()
    assert json_text_of(reading.events) == TEXT
    assert (await simulator.response(key))["deltas"] == 60
    assert await count_of(simulator, key, "response.create") == 2


async def test_a_tool_call_cut_in_two_goes_on_as_the_same_call(relay, api, simulator, key):
    calls = [{"name": "first", "arguments": {"a": TEXT}}, {"name": "second", "arguments": {"b": TEXT}}]
    posted = body({"key": key, "tool_calls": calls, "interval": 0.01})

    def is_in_the_second(reading):
        found = tool_calls_of(reading)
        return len(found) == 2 and len(found[1][1]) > 20

    async with api.posting(posted, form="json") as reading:
        await reading.until(is_in_the_second)
        (doomed,) = relay.workers
        relay.start_worker()
        relay.kill_worker(doomed)
        await reading.rest()
    found = [(name, json.loads(arguments)) for name, arguments in tool_calls_of(reading)]
    assert found == [("first", {"a": TEXT}), ("second", {"b": TEXT})]
    assert len(await simulator.responses(key)) == 1


async def test_a_drained_workers_answer_is_resumed_and_not_cancelled(relay, api, simulator, key):
    async with api.posting(slow(key, interval=0.1), form="json") as reading:
        await reading.until(has(5))
        (leaving,) = relay.workers
        relay.start_worker()
        assert await leaving.terminate(within=6) == 0
        await reading.rest()
    assert progress(reading) == ["started", "started", "done"]
    assert json_text_of(reading.events) == TEXT
    assert (await simulator.response(key))["deltas"] == 60
    assert await count_of(simulator, key, "response.cancel") == 0
    handed_over = [at for at, event in enumerate(reading.events) if event.name == "started"][1]
    had = json_text_of(reading.events[:handed_over])
    assert await sent_by_each(simulator, key) == [ANY, len(DELTAS) - [*accumulate(DELTAS)].index(had) - 1]


@pytest.mark.parametrize("kind", ["cut", "truncate", "garbage", "done_without_finish"])
async def test_a_broken_connection_is_no_broken_answer(api, simulator, key, kind):
    fault = {"kind": kind, "after": 20, "times": 2}
    reading = await api.ask(body({"key": key, "deltas": DELTAS, "fault": fault}), form="json")
    assert progress(reading) == ["started", "started", "started", "done"]
    assert json_text_of(reading.events) == TEXT
    assert (await simulator.response(key))["deltas"] == 60


async def test_a_stalled_connection_is_given_up_and_the_answer_resumed(start_stack, connect, simulator, key):
    stack = start_stack(upstream="responses", stall_timeout=1)
    fault = {"kind": "stall", "after": 20, "times": 1}
    posted = body({"key": key, "deltas": DELTAS, "fault": fault})
    reading = await connect(stack.apis[0].url).ask(posted, form="json")
    assert json_text_of(reading.events) == TEXT
    assert (await simulator.response(key))["deltas"] == 60


async def test_an_end_that_was_cut_is_not_asked_for_again_but_completed(api, simulator, key):
    fault = {"kind": "cut", "after": 1000, "times": 1}
    reading = await api.ask(body({"key": key, "deltas": DELTAS, "fault": fault}), form="json")
    assert json_text_of(reading.events) == TEXT
    assert reading.events[-1].json["usage"]["completion_tokens"] == 60
    assert len(await simulator.responses(key)) == 1


async def test_a_forgotten_response_leads_to_what_the_chat_chose(relay, api, simulator, key):
    async with api.posting(slow(key, interval=0.1), form="json") as reading:
        await reading.until(has(5))
        await simulator.forget_responses()
        await reading.rest()
    assert progress(reading) == ["started", "restart", "done"]
    assert json_text_of(reading.events) == TEXT
    assert (await api.chat(reading.chat_id))["text"] == TEXT


async def test_a_failed_response_is_tried_anew(api, simulator, key):
    fault = {"kind": "error", "after": 20, "times": 1}
    reading = await api.ask(body({"key": key, "deltas": DELTAS, "fault": fault}), form="json")
    assert progress(reading) == ["started", "restart", "done"]
    assert json_text_of(reading.events) == TEXT
    assert [response["status"] for response in await simulator.responses(key)] == ["failed", "completed"]


async def test_a_cancelled_chats_response_is_cancelled(api, simulator, key):
    async with api.posting(slow(key, interval=0.2), form="json") as reading:
        await reading.until(has(3))
        await api.cancel(reading.chat_id)
        await reading.rest()
    assert reading.events[-1].name == "cancelled"

    async def is_cancelled():
        return (await simulator.response(key))["cancelled_at"]

    await wait_until(is_cancelled)
    assert (await simulator.response(key))["deltas"] < 60


async def test_a_chat_cancelled_before_its_response_had_an_id_has_it_cancelled(api, simulator, key):
    fault = {"kind": "slow_headers", "seconds": 0.5}
    chat = await api.create(slow(key, interval=0.5, fault=fault))
    await wait_until(lambda: simulator.running(key))
    await api.cancel(chat["id"])

    async def is_cancelled():
        return (await simulator.response(key))["cancelled_at"]

    await wait_until(is_cancelled)


async def test_an_answer_that_can_no_longer_be_streamed_is_waited_for(relay, api, simulator, key):
    calls = [{"name": "f", "arguments": {"a": TEXT}}, {"name": "g", "arguments": {"b": TEXT}}]
    script = {"deltas": DELTAS, "reasoning": "hm, well", "tool_calls": calls, "streamable": 0.5, "interval": 0.01}
    async with api.posting(body({"key": key, "ttft": 0.1, **script}), form="json") as reading:
        await reading.until(has(45))
        (doomed,) = relay.workers
        relay.start_worker()
        relay.kill_worker(doomed)
        await reading.rest()
    assert progress(reading) == ["started", "started", "done"]
    assert json_text_of(reading.events) == TEXT
    found = [(name, json.loads(arguments)) for name, arguments in tool_calls_of(reading)]
    assert found == [("f", {"a": TEXT}), ("g", {"b": TEXT})]
    assert reading.events[-1].json["finish_reason"] == "tool_calls"
    assert len(await simulator.responses(key)) == 1


@pytest.mark.parametrize("end", ["drained", "killed"])
async def test_a_chat_cancelled_between_attempts_has_its_response_cancelled(relay, api, simulator, key, end):
    async with api.posting(slow(key, interval=0.5), form="json") as reading:
        await reading.until(has(3))
        (leaving,) = relay.workers
        if end == "killed":
            leaving.kill()
        else:
            assert await leaving.terminate(within=6) == 0
            await api.chat_when(reading.chat_id, "queued")
        await api.cancel(reading.chat_id)
    relay.start_worker()

    async def is_cancelled():
        return (await simulator.response(key))["cancelled_at"]

    await wait_until(is_cancelled)


async def test_a_chat_whose_deadline_passes_has_its_response_cancelled(start_stack, connect, simulator, key):
    stack = start_stack(upstream="responses", job_timeout=2)
    reading = await connect(stack.apis[0].url).ask(slow(key, interval=0.5))
    assert reading.events[-1].json["error"]["code"] == "job_timeout"

    async def is_cancelled():
        return (await simulator.response(key))["cancelled_at"]

    await wait_until(is_cancelled)


@pytest.mark.parametrize(("param", "value"), [("seed", 1), ("stop", ["x"]), ("store", False)])
async def test_what_cannot_be_passed_on_is_refused_by_name(api, simulator, key, param, value):
    reading = await api.ask(body({"key": key}, **{param: value}))
    error = reading.events[-1].json["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "unsupported_parameter")
    assert await simulator.requests(key) == []


async def test_a_refusal_of_the_upstream_ends_the_chat(api, key):
    fault = {"kind": "status", "status": 400, "message": "no", "code": "bad"}
    reading = await api.ask(body({"key": key, "fault": fault}))
    assert reading.events[-1].json["error"]["code"] == "bad"


async def test_redis_can_be_away_in_between(start_stack, connect, simulator, key):
    stack = start_stack(upstream="responses", is_durable=True, lease=LEASE)
    api = connect(stack.apis[0].url)
    chat = await api.create(slow(key))

    async def has_begun():
        return len((await api.chat(chat["id"]))["text"]) > 20

    await wait_until(has_begun)
    stack.server.process.kill()
    await asyncio.sleep(0.5)
    stack.server.start()
    reading = await api.read(chat["id"], form="json")
    assert json_text_of(reading.events) == TEXT
    assert (await simulator.response(key))["deltas"] == 60


async def test_a_frozen_worker_and_its_successor_show_nothing_twice(relay, api, simulator, key):
    async with api.posting(slow(key, interval=0.1), form="json") as reading:
        await reading.until(has(5))
        (frozen,) = relay.workers
        relay.start_worker()
        frozen.signal(signal.SIGSTOP)
        await reading.until(lambda reading: progress(reading).count("started") == 2)
        frozen.signal(signal.SIGCONT)
        await reading.rest()
    assert progress(reading) == ["started", "started", "done"]
    assert json_text_of(reading.events) == TEXT
    assert (await simulator.response(key))["deltas"] == 60
    assert await count_of(simulator, key, "response.cancel") == 0
