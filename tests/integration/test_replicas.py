"""API replicas that die, are told to stop, serve slow readers, and share few connections."""

import asyncio
import signal
import socket
from contextlib import AsyncExitStack

import httpx
import pytest
from harness.client import body, numbered
from harness.polling import wait_until
from harness.sse import raw_of

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def one_replica(start_module_stack):
    return start_module_stack(max_output=50 * MEBIBYTE, max_body=2 * MEBIBYTE)


async def test_a_killed_replica_costs_its_clients_nothing(start_stack, connect):
    stack = start_stack(apis=2)
    doomed, other = (connect(api.url) for api in stack.apis)
    async with doomed.posting(body({"deltas": numbered(60), "interval": 0.05})) as reading:
        await reading.first(10)
        stack.apis[0].process.kill()
        with pytest.raises(httpx.TransportError):
            await reading.rest()
    kept = reading.events
    rest = await other.read(reading.chat_id, cursor=kept[-1].id)
    assert raw_of(kept) + rest.received == (await other.read(reading.chat_id)).received
    assert [event.data for event in kept + rest.events] == [*numbered(60), "[DONE]"]


async def test_a_replica_that_lingers_says_so_and_serves_on(start_stack, connect):
    stack = start_stack(linger=2)
    (replica,) = stack.apis
    api = connect(replica.url)
    async with api.posting(body({"deltas": numbered(100), "interval": 0.02})) as reading:
        await reading.first(5)
        exiting = asyncio.create_task(replica.process.terminate(within=9))

        async def is_leaving():
            return (await api.http.get("/healthz")).status_code == 404

        await wait_until(is_leaving)
        assert (await api.ask(body({"deltas": ["a"]}))).events[-1].name == "done"
        await reading.rest()
        assert reading.ends_between_events
    assert await exiting in (0, -signal.SIGTERM)


async def test_a_replica_told_twice_to_stop_does_not_linger(start_stack, connect):
    (replica,) = start_stack(linger=60).apis
    api = connect(replica.url)
    replica.process.signal(signal.SIGTERM)

    async def is_leaving():
        return (await api.http.get("/healthz")).status_code == 404

    await wait_until(is_leaving)
    assert await replica.process.terminate(within=7) in (0, -signal.SIGTERM)


async def test_a_replica_told_to_stop_ends_its_streams_between_events_and_exits(start_stack, connect):
    stack = start_stack(apis=2)
    leaving, other = (connect(api.url) for api in stack.apis)
    posted = body({"deltas": numbered(100), "interval": 0.05})
    async with AsyncExitStack() as streams:
        readings = [await streams.enter_async_context(leaving.posting(posted, form=form)) for form in ("text", "json")]
        for reading in readings:
            await reading.first(10)
        exiting = asyncio.create_task(stack.apis[0].process.terminate(within=5))
        for reading in readings:
            await reading.rest()
            assert reading.ends_between_events
            assert not any(event.is_terminal for event in reading.events)
        assert await exiting in (0, -15)
    for reading, form in zip(readings, ("text", "json"), strict=True):
        kept = [event for event in reading.events if event.id]
        rest = await other.read(reading.chat_id, form=form, cursor=kept[-1].id)
        assert raw_of(kept) + rest.received == (await other.read(reading.chat_id, form=form)).received
        assert rest.events[-1].name == "done"


async def test_a_replica_told_to_stop_does_not_wait_for_idle_streams(start_stack, connect):
    stack = start_stack()
    api = connect(stack.apis[0].url)
    async with api.posting(body({"ttft": 60})) as reading:
        await api.chat_when(reading.chat_id, "running")
        assert await stack.apis[0].process.terminate(within=5) in (0, -15)
        assert (await reading.rest()).events == []


def open_without_reading(url: str, path: str) -> socket.socket:
    """A client that asks for a stream and takes next to nothing of it."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return client


async def test_a_slow_reader_delays_nobody_and_costs_little_memory(one_replica, connect):
    replica = one_replica.apis[0]
    api = connect(replica.url)
    await api.ask(body({"tokens": 100}))
    chat = await api.create(body({"deltas": ["ピ" * 10_000], "tokens": 100, "interval": 0.01}))
    before = replica.process.resident_bytes
    slow = [open_without_reading(replica.url, f"/v1/chats/{chat['id']}/stream") for _ in range(20)]
    try:
        reading = await asyncio.wait_for(api.read(chat["id"]), 20)
        assert len(reading.events) == 101
        assert replica.process.resident_bytes - before < 40 * MEBIBYTE
    finally:
        for client in slow:
            client.close()


async def test_a_slow_reader_misses_nothing(one_replica, connect):
    api = connect(one_replica.apis[0].url)
    deltas = [f"{number} ".ljust(2000) for number in range(500)]
    chat = await api.create(body({"deltas": deltas, "tokens": 2000}))
    async with api.following(chat["id"]) as slow:
        await slow.first(1)
        await api.chat_when(chat["id"], "done")
        await slow.rest()
    assert [event.data for event in slow.events] == [*deltas * 4, "[DONE]"]


async def test_a_late_reader_reads_the_log_once(one_replica, connect):
    api = connect(one_replica.apis[0].url)
    chat = await api.create(body({"deltas": ["x" * 30_000], "tokens": 130}))
    await api.chat_when(chat["id"], "done")
    costs = []
    for _ in range(2):  # what the worker itself still reads when the chat has ended is in one of them at most
        before = bytes_sent(one_replica.server)
        assert len((await api.read(chat["id"])).events) == 131
        costs.append(bytes_sent(one_replica.server) - before)
    assert min(costs) < 2 * 130 * 30_000


def bytes_sent(server):
    return server.client.info("stats")["total_net_output_bytes"]


async def test_streams_take_no_redis_connections(start_stack, connect):
    stack = start_stack(workers=0)
    api = connect(stack.apis[0].url)
    chats = await asyncio.gather(*(api.create(body()) for _ in range(50)))
    await asyncio.gather(*(api.chat(chat["id"]) for chat in chats * 2))
    before = len(stack.server.client.client_list())
    async with AsyncExitStack() as streams:
        readings = [await streams.enter_async_context(api.following(chat["id"], form="json")) for chat in chats]
        await asyncio.gather(*(reading.first(1) for reading in readings))
        assert len(stack.server.client.client_list()) <= before
        assert before <= 20


async def test_left_streams_leave_nothing_open(start_stack, connect):
    stack = start_stack()
    api = connect(stack.apis[0].url)
    await api.ask(body({"deltas": ["a"]}))
    files = stack.apis[0].process.count_files
    before = files()
    async with AsyncExitStack() as streams:
        chats = [await streams.enter_async_context(api.posting(body({"ttft": 60}))) for _ in range(30)]
        assert files() >= before + 29
    await asyncio.gather(*(api.cancel(chat.chat_id) for chat in chats))
    await api.http.aclose()
    await wait_until(lambda: files() < before + 20)
    await wait_until(lambda: stack.server.client.pubsub_channels("piropiro:{*") == [])
