"""The campaign's own reading of HTTP and SSE, at any byte split; and the proxy's weather."""

import asyncio
import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults.http import _Body
from faults.proxy import Proxy
from faults.sse import Event, Parser

STREAM = b"event: restart\nid: c:2-0\ndata: \n\n: keep-alive\nid: c:2-1\ndata: a\ndata:  b\n\ndata: piro"
EVENTS = [Event("c:2-0", "restart", ""), Event("c:2-1", "", "a\n b")]
CHUNKED = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"piro", b"\r\n", b"x" * 20)) + b"0\r\n\r\n"

cuts = st.lists(st.integers(0, 200), max_size=8).map(sorted)


def pieces(data, places):
    bounds = [0, *(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


@given(cuts)
def test_events_do_not_depend_on_the_split(places):
    parser = Parser()
    assert [event for piece in pieces(STREAM, places) for event in parser.feed(piece)] == EVENTS


@given(cuts)
def test_a_chunked_body_does_not_depend_on_the_split(places):
    body = _Body({"transfer-encoding": "chunked"})
    assert b"".join(body.feed(piece) for piece in pieces(CHUNKED, places)) == b"piro\r\n" + b"x" * 20
    assert body.is_complete


@pytest.fixture
async def proxied():
    """A proxy to a server that echoes; its proxy and port."""
    closing = []

    async def echo(reader, writer):
        closing.append(writer)
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(Random(1))
    yield proxy, await proxy.listen(server.sockets[0].getsockname()[1])
    proxy.close()
    server.close()
    for writer in closing:
        writer.close()


async def exchange(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def test_fine_weather_lets_everything_through(proxied):
    _, port = proxied
    data = bytes(range(256)) * 2000
    assert await exchange(port, data) == data


async def test_delay_and_silence_keep_the_order(proxied):
    proxy, port = proxied
    proxy.delay = 0.01
    data = bytes(range(256)) * 10
    assert await exchange(port, data) == data
    proxy.is_silent = True
    waiting = asyncio.create_task(exchange(port, data))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await proxy.clear()
    assert await waiting == data


async def test_a_cut_delivers_a_beginning_at_most(proxied):
    proxy, port = proxied
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"a" * 50)
    assert await reader.readexactly(50) == b"a" * 50
    proxy.cut(1.0, 100)
    writer.write(b"b" * 5000)
    try:
        rest = await reader.read()
    except ConnectionError:
        rest = b""
    assert b"b" * 5000 != rest == b"b" * len(rest)
    assert (proxy.cuts, proxy.connections) == (1, set())
    writer.close()


async def test_what_is_refused_gets_nothing_until_the_weather_is_fine(proxied):
    proxy, port = proxied
    proxy.refuse()
    await asyncio.sleep(0)  # the server closes its socket in the loop's next turn
    with pytest.raises(ConnectionRefusedError):
        await exchange(port, b"x")
    await proxy.clear()
    assert await exchange(port, b"x") == b"x"


@pytest.mark.parametrize("is_first", [True, False], ids=["client", "server"])
async def test_no_connection_is_left_when_both_sides_have_left(is_first):
    """Whoever leaves first: the other leaves when it sees that."""

    async def serve(reader, writer):
        await reader.readexactly(1)
        writer.write(b"y")
        if is_first:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = Proxy(Random(1))
    port = await proxy.listen(server.sockets[0].getsockname()[1])
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"y"
        if not is_first:
            assert await reader.read() == b""
        writer.close()
    async with asyncio.timeout(5):
        while proxy.connections:
            await asyncio.sleep(0.01)
    proxy.close()
    server.close()
