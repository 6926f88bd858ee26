"""Workers that die, are told to stop, or are plain arq; and how much one of them does at once."""

import asyncio
import signal
import time

import pytest
from harness.client import MESSAGES, body, numbered
from harness.polling import wait_until
from harness.sse import json_text_of, text_of

LEASE = 1.0
TAKEOVER = LEASE + 5
DELTAS = numbered(30)


def hanging(key):
    """A chat whose first request to the upstream hangs after five deltas."""
    return body({"key": key, "deltas": DELTAS, "fault": {"kind": "stall", "after": 5, "times": 1}})


@pytest.fixture(scope="module")
def relay_stack(start_module_stack):
    return start_module_stack(lease=LEASE, drain=5, max_attempts=2)


@pytest.fixture
def relay(relay_stack):
    """A stack with one worker, whatever the test before it did to its workers."""
    relay_stack.leave_one_worker()
    return relay_stack


@pytest.fixture
def api(relay, connect):
    return connect(relay.apis[0].url)


def replace_worker(stack):
    """Kill the worker there is, and start another."""
    (doomed,) = stack.workers
    stack.kill_worker(doomed)
    stack.start_worker()


async def add_worker(stack, api):
    """Start a second worker, wait until it is live, and give the first."""
    (first,) = stack.workers
    stack.start_worker()

    async def both_live():
        return (await api.http.get("/readyz")).json().get("workers") == 2

    await wait_until(both_live)
    return first


def has_restarted(reading):
    return any(event.name == "restart" for event in reading.events)


def is_under_way(reading):
    return json_text_of(reading.events) == "".join(DELTAS[:5])


def progress(reading):
    """The names of the events that are neither deltas nor places in the queue."""
    return [event.name for event in reading.events if event.name not in ("queued", "delta")]


async def test_a_killed_workers_chat_is_restarted_by_another_in_time(relay, api, key):
    async with api.posting(hanging(key), form="json") as reading:
        await reading.until(is_under_way)
        doomed = await add_worker(relay, api)
        relay.kill_worker(doomed)
        killed = time.monotonic()
        await reading.until(has_restarted)
        assert time.monotonic() - killed < TAKEOVER
        await reading.rest()
    assert progress(reading) == ["started", "restart", "done"]
    assert json_text_of(reading.events) == "".join(DELTAS)
    chat = await api.chat(reading.chat_id)
    assert (chat["status"], chat["attempts"], chat["text"]) == ("done", 2, "".join(DELTAS))


@pytest.mark.parametrize(("form", "data"), [("text", ""), ("json", '{"attempt":2,"reason":"worker_lost"}')])
async def test_a_restart_tells_why(relay, api, key, form, data):
    async with api.posting(hanging(key), form=form) as reading:
        await reading.until(lambda reading: len(reading.events) >= 5)
        replace_worker(relay)
        await reading.rest()
    (restart,) = [event for event in reading.events if event.name == "restart"]
    assert restart.raw.decode() == f"event: restart\nid: {restart.id}\ndata: {data}\n\n"
    assert (text_of if form == "text" else json_text_of)(reading.events) == "".join(DELTAS)


async def test_a_chat_that_is_to_fail_with_its_worker_fails(relay, api, key):
    async with api.posting(hanging(key), x_piropiro_on_worker_loss="fail") as reading:
        await reading.first(5)
        replace_worker(relay)
        await reading.rest()
    assert [event.data for event in reading.events[:-1]] == DELTAS[:5]
    assert reading.events[-1].name == "error"
    assert reading.events[-1].json["error"]["code"] == "worker_lost"
    assert (await api.chat(reading.chat_id))["status"] == "failed"


async def test_a_chat_that_is_to_continue_goes_on_after_what_there_is(relay, api, simulator, key):
    async with api.posting(hanging(key), form="json", x_piropiro_on_worker_loss="continue") as reading:
        await reading.until(is_under_way)
        replace_worker(relay)
        await reading.rest()
    assert progress(reading) == ["started", "started", "done"]
    assert [event.json["attempt"] for event in reading.events if event.name == "started"] == [1, 2]
    assert json_text_of(reading.events) == "".join(DELTAS)
    _, continued = await simulator.requests(key)
    assert continued["body"]["messages"] == [*MESSAGES, {"role": "assistant", "content": "".join(DELTAS[:5])}]
    assert (await api.chat(reading.chat_id))["text"] == "".join(DELTAS)


async def test_a_chat_killed_before_its_first_delta_is_started_again_without_restart(relay, api, simulator, key):
    posted = body({"key": key, "deltas": DELTAS, "fault": {"kind": "slow_headers", "times": 1}})
    async with api.posting(posted, form="json") as reading:
        await wait_until(lambda: simulator.running(key))
        replace_worker(relay)
        await reading.rest()
    assert progress(reading) == ["started", "started", "done"]


async def test_a_stopping_worker_finishes_what_runs_and_takes_nothing_new(relay, api):
    (leaving,) = relay.workers
    async with api.posting(body({"deltas": numbered(100), "interval": 0.02}), form="json") as reading:
        await reading.until(lambda reading: json_text_of(reading.events))
        exiting = asyncio.create_task(leaving.terminate(within=8))
        relay.start_worker()
        new = await api.ask(body({"deltas": ["b"]}), form="json")
        await reading.rest()
        assert await exiting == 0
    assert progress(new) == progress(reading) == ["started", "done"]
    assert json_text_of(reading.events) == "".join(numbered(100))


async def test_what_a_stopping_worker_cannot_finish_is_handed_over_and_no_failure(start_stack, connect, simulator, key):
    stack = start_stack(drain=1, max_attempts=1)
    api = connect(stack.apis[0].url)
    async with api.posting(hanging(key), form="json") as reading:
        await reading.until(is_under_way)
        stack.start_worker()
        assert await stack.workers[0].terminate(within=6) == 0
        await reading.rest()
    assert progress(reading) == ["started", "restart", "done"]
    assert json_text_of(reading.events) == "".join(DELTAS)
    assert len(await simulator.requests(key)) == 2


async def test_a_frozen_worker_that_wakes_up_cannot_append(relay, api, key):
    # Its upstream sends on while it is frozen, so that it has something to append when it wakes up.
    async with api.posting(body({"key": key, "deltas": numbered(100), "interval": 0.1}), form="json") as reading:
        await reading.first(5)
        frozen = await add_worker(relay, api)
        frozen.signal(signal.SIGSTOP)
        await reading.until(has_restarted)
        frozen.signal(signal.SIGCONT)
        await reading.rest()
    assert progress(reading) == ["started", "restart", "done"]
    restart = [event.name for event in reading.events].index("restart")
    assert {attempt_of(event) for event in reading.events[restart:-1]} == {"2"}
    assert json_text_of(reading.events) == "".join(numbered(100))


def attempt_of(event):
    return event.id.partition(":")[2].partition("-")[0]


async def test_worker_losses_use_up_attempts(start_stack, connect, key):
    stack = start_stack(lease=LEASE, max_attempts=1)
    api = connect(stack.apis[0].url)
    async with api.posting(hanging(key)) as reading:
        await reading.first(5)
        replace_worker(stack)
        await reading.rest()
    assert reading.events[-1].name == "error"
    assert reading.events[-1].json["error"]["code"] == "worker_lost"


async def test_plain_arq_runs_the_same_settings(start_stack, connect):
    stack = start_stack(workers=0)
    api = connect(stack.apis[0].url)
    stack.start_worker("-m", "arq", "worker.main.WorkerSettings")
    reading = await api.ask(body({"deltas": DELTAS, "interval": 0.01}), form="json")
    assert progress(reading) == ["started", "done"]
    assert json_text_of(reading.events) == "".join(DELTAS)
    chat = await api.create(body({"deltas": DELTAS, "interval": 0.1}))
    await api.chat_when(chat["id"], "running")
    await api.cancel(chat["id"])
    assert (await api.read(chat["id"])).events[-1].name == "cancelled"


async def test_one_worker_runs_as_many_chats_at_once_as_it_may(start_stack, connect, simulator, key):
    stack = start_stack(max_jobs=150)
    api = connect(stack.apis[0].url)
    posted = body({"key": key, "deltas": ["a", "b"], "fault": {"kind": "stall", "after": 1}})
    chats = [await api.create(posted) for _ in range(160)]

    async def running():
        return await simulator.running(key) == 150

    await wait_until(running)
    states = [(await api.chat(chat["id"]))["status"] for chat in chats]
    assert (states.count("running"), states.count("queued")) == (150, 10)
    for chat in chats[:10]:
        await api.cancel(chat["id"])
    for chat in chats[-10:]:
        await api.chat_when(chat["id"], "running")
