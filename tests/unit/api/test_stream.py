"""A stream's response under a real uvicorn, with followers that are fakes."""

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager

import pytest
import uvicorn
from harness.polling import wait_until

from api import stream as stream_module
from api.stream import StreamResponse
from api.tail import Step

FRAME = b"data: %d\n\n" % (10**90)
KEPT_BY_THE_KERNEL = 8 << 20


class FakeFollower:
    """Gives frame after frame, as many as it has."""

    def __init__(self, frame=FRAME, count=10**9):
        self.frame, self.count = frame, count
        self.taken = 0
        self.is_over = False
        self.is_page_due = True
        self.on_more = None
        self.parting = b""
        self.is_at_edge = False

    def take(self):
        if self.is_over or self.taken == self.count:
            return Step.OVER
        self.is_page_due = not self.is_page_due
        if self.is_page_due:
            return Step.LAGGING
        self.taken += 1
        return self.frame

    async def catch_up(self):
        await asyncio.sleep(0)
        self.taken += 1
        return self.frame

    def last_words(self):
        return self.parting

    def close(self):
        self.is_over = True
        if self.on_more:
            self.on_more()


@asynccontextmanager
async def serving(follower, write_timeout=60, keepalive=60):
    """A server that answers with the follower's stream, and its port."""

    async def app(scope, receive, send):
        await StreamResponse(follower, {}, keepalive, write_timeout)(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    server.install_signal_handlers = lambda: None
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server._serve([listener]))
    try:
        await wait_until(lambda: server.started)
        yield server, listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


@asynccontextmanager
async def asking(port):
    """A client that has asked for the stream, and takes small segments, as on a network."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        yield client


async def stopped(follower):
    """Wait until no more is taken from the follower."""
    seen = -1

    def is_still():
        nonlocal seen
        before, seen = seen, follower.taken
        return before == seen

    await wait_until(lambda: follower.taken > 0)
    for _ in range(5):
        await wait_until(is_still)


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(stream_module, "_LOOK", 0.05)


@pytest.mark.parametrize("size", [100, 60_000])
async def test_one_write_is_kept_for_a_client_that_stops_reading_however_small_or_large(size):
    follower = FakeFollower(b"x" * size)
    async with serving(follower) as (server, port), asking(port):
        await stopped(follower)
        (connection,) = server.server_state.connections
        # The kernel may yet take a little, late, and then it is a moment until the next write.
        await wait_until(connection.transport.get_write_buffer_size)
        assert connection.transport.get_write_buffer_size() < size + 20
        assert follower.taken * size < KEPT_BY_THE_KERNEL


@pytest.mark.usefixtures("hasty")
async def test_a_client_that_takes_nothing_for_long_is_cut_and_its_follower_closed():
    follower = FakeFollower()
    async with serving(follower, write_timeout=0.3) as (server, port), asking(port):
        await wait_until(lambda: follower.is_over)
        await wait_until(lambda: not server.server_state.connections and not server.server_state.tasks)


@pytest.mark.usefixtures("hasty")
async def test_a_client_that_reads_a_little_now_and_then_gets_everything():
    follower = FakeFollower(b"~" * 1000, 1000)
    loop, received = asyncio.get_running_loop(), bytearray()
    async with serving(follower, write_timeout=1) as (_, port), asking(port) as client:
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += await loop.sock_recv(client, 20_000)
            await asyncio.sleep(0.03)
    assert received.count(b"~") == 1_000_000


async def test_a_stopped_client_does_not_hold_up_the_end_of_the_replica(monkeypatch):
    monkeypatch.setattr(stream_module, "_LOOK", 0.05)
    follower = FakeFollower()
    async with serving(follower) as (server, port), asking(port):
        await stopped(follower)
        assert server.server_state.connections
        follower.is_over = True
        await wait_until(lambda: not server.server_state.connections)


@pytest.mark.usefixtures("hasty")
async def test_an_idle_stream_is_not_cut():
    follower = FakeFollower()
    follower.take = lambda: Step.OVER if follower.is_over else Step.IDLE
    async with serving(follower, write_timeout=0.3) as (server, port), asking(port):
        await wait_until(lambda: server.server_state.connections)
        await asyncio.sleep(0.6)
        assert server.server_state.connections
        follower.close()


async def test_another_server_without_a_connection_of_its_own_is_served_too():
    sent, complete = [], asyncio.Event()

    async def receive():
        await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        await asyncio.sleep(0)
        sent.append(message)
        if not message.get("more_body", True):
            complete.set()

    await StreamResponse(FakeFollower(b"frame", 2), {}, 60, 60)({}, receive, send)
    assert b"".join(message.get("body", b"") for message in sent) == b"frameframe"
    assert sent[-1]["more_body"] is False


async def test_a_client_that_leaves_with_a_request_pipelined_leaves_nothing_behind():
    follower = FakeFollower()
    follower.take = lambda: Step.OVER if follower.is_over else Step.IDLE
    async with serving(follower, keepalive=0.05) as (server, port):
        async with asking(port) as client:
            await asyncio.get_running_loop().sock_sendall(client, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await wait_until(lambda: server.server_state.tasks)
        await wait_until(lambda: follower.is_over)
        await wait_until(lambda: not server.server_state.tasks)


async def read_all(port):
    """What a client gets until the connection or the response ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    received = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return received


async def test_a_stream_ends_with_its_followers_last_words():
    follower = FakeFollower(b"frame", 2)
    follower.parting = b"last"
    async with serving(follower) as (_, port):
        received = await read_all(port)
    assert received.endswith(b"5\r\nframe\r\n5\r\nframe\r\n4\r\nlast\r\n0\r\n\r\n")


async def test_a_stream_without_last_words_is_cut():
    follower = FakeFollower(b"frame", 2)
    follower.parting = None
    async with serving(follower) as (_, port):
        try:
            received = await read_all(port)
        except ConnectionResetError:
            received = b""
        assert not received.endswith(b"0\r\n\r\n")
        await wait_until(lambda: follower.is_over)


async def test_a_stream_begins_with_its_prefix_and_has_the_headers_it_was_given():
    sent = []

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await StreamResponse(FakeFollower(b"frame", 0), {"X-Other": "a"}, 60, 60, b"first")({}, receive, send)
    assert sent[0]["headers"] == [(b"x-other", b"a")]
    assert sent[1]["body"] == b"first"
