"""A server that is lost in mid-stream, by every kind of failure, and comes back with what it acknowledged."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack, contextmanager

import pytest
from harness.client import body, numbered
from harness.polling import wait_until
from harness.proxy import breaking_proxy
from harness.sse import raw_of

DELTAS = numbered(100)
WITHIN = 4.0  # 1.5 s of patience, and what a busy machine adds; without a bound it would be 5 s at least
HANG = 10.0
LEASE = 2.0
API_GRACE = 7.0
DRAIN = 1
WORKER_GRACE = DRAIN + 10.0


@contextmanager
def hanging(server):
    """The server does not answer, but its connections stay open."""
    server.process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.signal(signal.SIGCONT)


@contextmanager
def full(server):
    """The server takes nothing new."""
    server.client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        server.client.config_set("maxmemory", 0)


async def assert_refused(api, method, path, **options):
    """It is answered 503 in the envelope, in time."""
    asked = time.monotonic()
    answer = await api.http.request(method, path, **options)
    assert time.monotonic() - asked < WITHIN
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "redis_unavailable"


async def assert_whole(api, reading, form="text", deltas=DELTAS):
    """The reader has all of the log, each event once, and it took one attempt."""
    assert reading.events[-1].name == "done"
    kept = [event for event in reading.events if event.id]
    assert raw_of(kept) == (await api.read(reading.chat_id, form=form)).received
    chat = await api.chat(reading.chat_id)
    assert (chat["text"], chat["attempts"]) == ("".join(deltas), 1)


async def assert_ready(stack, api):
    """Every process lives, and has found the server again."""
    assert [process.exit_status for process in stack.processes] == [None] * len(stack.processes)

    async def is_ready():
        answer = await api.http.get("/readyz")
        return answer.json().get("workers") == len(stack.workers)

    await wait_until(is_ready)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_server_restarted_in_mid_stream_costs_nothing(start_stack, connect, form):
    stack = start_stack(is_durable=True)
    api = connect(stack.apis[0].url)
    async with api.posting(body({"deltas": DELTAS, "interval": 0.02}), form=form) as reading:
        await reading.first(20)
        stack.server.process.kill()
        await assert_refused(api, "POST", "/v1/chats", json=body())
        stack.server.start()
        await reading.rest()
    await assert_whole(api, reading, form)
    await assert_ready(stack, api)


async def test_a_server_that_hangs_for_long_takes_no_chat_from_its_worker(start_stack, connect):
    stack = start_stack(workers=2, lease=LEASE)
    api = connect(stack.apis[0].url)
    deltas = numbered(160)
    async with AsyncExitStack() as streams:
        posted = body({"deltas": deltas, "interval": 0.1})
        readings = [await streams.enter_async_context(api.posting(posted)) for _ in range(6)]
        for reading in readings:
            await reading.first(5)
        hung = time.monotonic()
        with hanging(stack.server):
            while time.monotonic() - hung < HANG:
                await assert_refused(api, "POST", "/v1/chats", json=body())
                await assert_refused(api, "GET", f"/v1/chats/{readings[0].chat_id}")
        for reading in readings:
            await reading.rest()
    for reading in readings:
        await assert_whole(api, reading, deltas=deltas)
    await assert_ready(stack, api)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_connections_dropped_in_mid_pipeline_cost_nothing(start_stack, connect, form):
    stack = start_stack(apis=0, workers=0)
    async with breaking_proxy(stack.server.port) as proxy, AsyncExitStack() as streams:
        stack.set_environment(REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        await asyncio.to_thread(stack.start, apis=1, workers=1)
        api = connect(stack.apis[0].url)
        posted = body({"deltas": DELTAS, "interval": 0.03})
        readings = [await streams.enter_async_context(api.posting(posted, form=form)) for _ in range(8)]
        for cut in range(12):
            await readings[0].first(6 * (cut + 1))
            proxy.break_all(after=61 * cut)
        for reading in readings:
            await reading.rest()
        assert proxy.broken > 12
        for reading in readings:
            await assert_whole(api, reading, form)
        await assert_ready(stack, api)


async def test_a_full_server_refuses_what_is_new_and_lets_what_runs_wait(start_stack, connect):
    stack = start_stack(workers=2, lease=LEASE)
    api = connect(stack.apis[0].url)
    async with AsyncExitStack() as streams:
        posted = body({"deltas": DELTAS, "interval": 0.05})
        readings = [await streams.enter_async_context(api.posting(posted)) for _ in range(6)]
        for reading in readings:
            await reading.first(10)
        chat_id = readings[0].chat_id
        with full(stack.server):
            for path in ("/v1/chats", "/v1/chat/stream"):
                await assert_refused(api, "POST", path, json=body())
                await assert_refused(api, "POST", path, json=body(), headers={"Idempotency-Key": path})
            await assert_refused(api, "POST", f"/v1/chats/{chat_id}/cancel")
            before = await api.chat(chat_id)
            began = time.monotonic()
            while time.monotonic() - began < 3 * LEASE:
                assert await api.chat(chat_id) == before
        for reading in readings:
            await reading.rest()
    for reading in readings:
        await assert_whole(api, reading)
    await assert_ready(stack, api)
    assert (await api.ask(body({"deltas": ["a"]}), idempotency_key="/v1/chats")).events[-1].name == "done"


async def test_processes_told_to_stop_while_the_server_hangs_end_in_time(start_stack, connect):
    stack = start_stack(drain=DRAIN)
    api = connect(stack.apis[0].url)
    async with api.posting(body({"deltas": DELTAS, "interval": 0.1})) as reading:
        await reading.first(5)
        with hanging(stack.server):
            statuses = await asyncio.gather(
                stack.apis[0].process.terminate(within=API_GRACE), stack.workers[0].terminate(within=WORKER_GRACE)
            )
    assert set(statuses) <= {0, -signal.SIGTERM}
