"""Requests over a wire, on a real server and on one that does what a server should not."""

import asyncio

import pytest
from redis import exceptions

from shared.connect import FAILURES, connect
from shared.wire import Requests


@pytest.fixture
async def redis(server_url):
    client = connect(server_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def requests(redis):
    requests = Requests(redis, timeout=2)
    yield requests
    requests.close()
    await asyncio.sleep(0)


async def test_replies_come_in_order_and_errors_among_them(requests):
    set_, get, wrong, script = await requests(
        [("SET", "k", b"\x00v\r\n"), ("GET", "k"), ("LPUSH", "k", 1), ("EVALSHA", "0" * 40, 0)]
    )
    assert (set_, get) == (b"OK", b"\x00v\r\n")
    assert isinstance(wrong, exceptions.ResponseError)
    assert isinstance(script, exceptions.NoScriptError)


async def test_nothing_asked_is_answered_at_once(requests):
    assert await requests([]) == []


async def test_much_goes_in_one_request(requests):
    values = [b"%d" % n * 1000 for n in range(2000)]
    assert await requests([("ECHO", value) for value in values]) == values


async def test_a_lost_connection_is_a_failure_and_the_next_request_makes_another(redis, requests):
    await requests([("CLIENT", "SETNAME", "wire")])
    [client] = [client for client in await redis.client_list() if client["name"] == "wire"]
    asking = asyncio.create_task(requests([("BLPOP", "nothing", 5)]))
    await asyncio.sleep(0.05)
    await redis.client_kill_filter(_id=client["id"])
    with pytest.raises(FAILURES):
        await asking
    assert await requests([("ECHO", "x")]) == [b"x"]


async def test_a_late_reply_is_never_taken_for_the_next_ones(redis, requests):
    with pytest.raises(exceptions.TimeoutError):
        await requests([("BLPOP", "late", 5)])
    await redis.rpush("late", "x")
    assert await requests([("ECHO", "y")]) == [b"y"]


async def test_a_cancelled_request_leaves_nothing_behind(redis, requests):
    asking = asyncio.create_task(requests([("BLPOP", "late", 5)]))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await requests([("ECHO", "y")]) == [b"y"]


@pytest.mark.parametrize("answer", [b"nonsense\r\n", b""])
async def test_a_server_that_speaks_no_redis_is_a_failure(answer):
    async def serve(reader, writer):
        while b"PING" not in await reader.read(1000):
            writer.write(b"+OK\r\n+OK\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        requests = Requests(client, timeout=0.5)
        with pytest.raises(FAILURES):
            await requests([("PING",)])
        requests.close()
        await client.aclose()


async def test_nobody_there_is_a_failure():
    client = connect("redis://127.0.0.1:9/0")
    with pytest.raises(FAILURES):
        await Requests(client, timeout=0.5)([("PING",)])
    await client.aclose()
