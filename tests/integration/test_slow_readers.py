"""Readers that stop, trickle, half close or reset, and clients that never finish asking."""

import asyncio
import re
import socket
import struct
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.client import body, numbered
from harness.polling import wait_until

KIBIBYTE = 1024
A_READER = 192 * KIBIBYTE
"""What a reader may cost that has stopped: one write, which is 64 KiB and a frame, and what every connection costs."""

LARGE = 100_000
_RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def stack(start_module_stack):
    return start_module_stack()


@pytest.fixture
def replica(stack):
    return stack.apis[0]


@pytest.fixture
def api(replica, connect):
    return connect(replica.url)


def asking(url, path, *, is_whole=True):
    """A connection over which that was asked, wholly or but for the last line; small buffers, as on a network."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    address = urlsplit(url)
    client.connect((address.hostname, address.port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n".encode() + b"\r\n" * is_whole)
    return client


@contextmanager
def stopped_readers(replica, chat_id, count):
    """So many clients that ask for a chat's stream and read nothing of it."""
    with ExitStack() as clients:
        yield [clients.enter_context(asking(replica.url, f"/v1/chats/{chat_id}/stream")) for _ in range(count)]


def private_bytes(process):
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return KIBIBYTE * int(re.search(r"^Private_Dirty: +(\d+) kB", rollup, re.MULTILINE)[1])


def unsent_bytes(replica):
    """What the kernel has yet to send for a replica, by connection."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = f"0100007F:{replica.port:04X}"
    return [int(line[4].split(":")[0], 16) for line in lines if line[1] == local and line[3] == "01"]


async def until_all_stopped(replica, count):
    """Wait until the kernel holds something unsent for so many connections."""
    await wait_until(lambda: sum(unsent > 0 for unsent in unsent_bytes(replica)) >= count, 30)


async def until_left(stack, replica, files):
    """Wait until nothing of the readers is left: no descriptor, no subscription."""
    await wait_until(lambda: replica.process.count_files() <= files, 20)
    await wait_until(lambda: stack.server.client.pubsub_channels("piropiro:{*") == [])


@pytest.fixture
async def files(api, replica):
    """How many descriptors the replica has open when nobody reads; one connection, the client's own, is among them."""
    await asyncio.gather(*(api.ask(body({"deltas": ["a"]})) for _ in range(20)))
    await api.http.aclose()
    before = None

    def is_still():
        nonlocal before
        last, before = before, replica.process.count_files()
        return last == before

    await asyncio.sleep(1.2)
    await wait_until(is_still)
    return before + 2


async def test_a_reader_that_stops_in_a_long_log_costs_one_write(api, replica):
    chat = await api.ask(body({"deltas": ["x" * LARGE], "tokens": 40}))
    with stopped_readers(replica, chat.chat_id, 16):
        await until_all_stopped(replica, 16)
    before = private_bytes(replica.process)
    with stopped_readers(replica, chat.chat_id, 150):
        await until_all_stopped(replica, 150)
        assert private_bytes(replica.process) - before < 150 * A_READER


async def test_stopped_readers_delay_nobody_and_leave_nothing(stack, replica, connect, files):
    api = connect(replica.url)
    deltas = [f"{number} ".ljust(2000) for number in range(300)]
    chat = await api.create(body({"deltas": deltas, "interval": 0.01}))
    with stopped_readers(replica, chat["id"], 50):
        assert [event.data for event in (await api.read(chat["id"])).events] == [*deltas, "[DONE]"]
        await until_all_stopped(replica, 50)
    await api.http.aclose()
    await until_left(stack, replica, files)


async def test_a_replica_told_to_stop_does_not_wait_for_stopped_readers(start_stack, connect):
    stack = start_stack()
    replica = stack.apis[0]
    api = connect(replica.url)
    chat = await api.create(body({"deltas": ["x" * LARGE], "tokens": 40, "interval": 0.2}))
    await wait_until(lambda: stack.server.client.xlen(f"piropiro:{{{chat['id']}}}:log") > 10)
    with stopped_readers(replica, chat["id"], 20):
        await until_all_stopped(replica, 20)
        assert await replica.process.terminate(within=8) in (0, -15)


async def test_a_reader_that_trickles_is_served_while_it_does(api, replica):
    chat = await api.create(body({"deltas": ["x" * LARGE], "tokens": 20}))
    await api.chat_when(chat["id"], "done")
    with asking(replica.url, f"/v1/chats/{chat['id']}/stream") as client:
        for expected in b"HTTP/1.1 200 OK":
            assert client.recv(1) == bytes([expected])
            assert len((await api.read(chat["id"])).events) == 21
        received = b""
        client.settimeout(10)
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += await asyncio.to_thread(client.recv, 1 << 20)
    assert received.count(b"x") >= 20 * LARGE


async def test_a_reader_that_closes_its_sending_half_has_left(stack, replica, connect, files):
    api = connect(replica.url)
    chat = await api.create(body({"ttft": 60}))
    with asking(replica.url, f"/v1/chats/{chat['id']}/stream") as client:
        await wait_until(lambda: stack.server.client.pubsub_channels("piropiro:{*"))
        client.shutdown(socket.SHUT_WR)
        await api.cancel(chat["id"])
        await api.http.aclose()
        await until_left(stack, replica, files)


async def test_a_thousand_connections_that_are_reset_at_once_leave_nothing(stack, replica, connect, files):
    api = connect(replica.url)
    chat = await api.create(body({"ttft": 60}))
    for number in range(1000):
        client = asking(replica.url, f"/v1/chats/{chat['id']}/stream", is_whole=number % 3 > 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if number % 3 > 1:
            await asyncio.sleep(0)
        client.close()
    await api.cancel(chat["id"])
    await api.http.aclose()
    await until_left(stack, replica, files)


async def test_clients_that_never_finish_their_headers_delay_nobody_and_leave_nothing(stack, replica, connect, files):
    api = connect(replica.url)
    with ExitStack() as clients:
        slow = [clients.enter_context(asking(replica.url, "/v1/chats", is_whole=False)) for _ in range(300)]
        await wait_until(lambda: replica.process.count_files() >= 300)
        for client in slow:
            client.sendall(b"X-Slow: 1\r\n")
        assert (await api.ask(body({"deltas": numbered(50)}))).events[-1].name == "done"
    await api.http.aclose()
    await until_left(stack, replica, files)
