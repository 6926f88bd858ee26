"""An ended chat can be read for PIROPIRO_RETENTION, and then nothing of it is left."""

import time

import pytest
from harness.client import body, numbered
from harness.polling import wait_until


@pytest.fixture(scope="module")
def forgetful(start_module_stack):
    return start_module_stack(retention=2)


@pytest.fixture
def api(forgetful, connect):
    return connect(forgetful.apis[0].url)


def traces(server, chat_id: str) -> list[bytes]:
    """Every key that names the chat, in its own name or in what it holds."""
    redis, needle = server.client, chat_id.encode()
    readers = {
        b"string": redis.get,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1),
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"stream": redis.xrange,
        b"none": lambda _: None,
    }
    return [key for key in redis.scan_iter() if needle in key or needle in repr(readers[redis.type(key)](key)).encode()]


async def expired(api, chat_id: str) -> bool:
    return (await api.http.get(f"/v1/chats/{chat_id}")).status_code == 404


async def assert_no_trace(forgetful, api, chat_id: str) -> None:
    assert traces(forgetful.server, chat_id)
    await wait_until(lambda: expired(api, chat_id))
    await wait_until(lambda: not traces(forgetful.server, chat_id), timeout=5)


async def test_a_done_chat_leaves_no_trace(forgetful, api, key):
    began = time.monotonic()
    reading = await api.ask(body({"deltas": numbered(10)}), idempotency_key=key)
    await assert_no_trace(forgetful, api, reading.chat_id)
    assert time.monotonic() - began > 1.9


async def test_a_failed_chat_leaves_no_trace(forgetful, api, key):
    fault = {"kind": "status", "status": 400}
    reading = await api.ask(body({"fault": fault}), idempotency_key=key)
    await assert_no_trace(forgetful, api, reading.chat_id)


async def test_a_cancelled_chat_leaves_no_trace(forgetful, api, key):
    async with api.posting(body({"deltas": numbered(1000), "interval": 0.02}), idempotency_key=key) as reading:
        await reading.first(2)
        await api.cancel(reading.chat_id)
    await assert_no_trace(forgetful, api, reading.chat_id)


async def test_a_chat_that_its_last_reader_left_is_cancelled_on_request_and_leaves_no_trace(
    forgetful, api, simulator, key
):
    posted = body({"key": key, "deltas": numbered(1000), "interval": 0.02})
    async with api.posting(posted, idempotency_key=key, x_piropiro_on_disconnect="cancel") as reading:
        await reading.first(2)
    assert (await api.chat_when(reading.chat_id, "cancelled"))["finish_reason"] is None
    assert await simulator.outcome(key) == "client_closed"
    await assert_no_trace(forgetful, api, reading.chat_id)


async def test_an_expired_chat_is_404_for_every_call_and_never_a_new_one(api, simulator, key):
    posted = body({"key": key, "deltas": ["a", "b"]})
    reading = await api.ask(posted)
    await wait_until(lambda: expired(api, reading.chat_id))
    for cursor in (reading.events[0].id, reading.events[-1].id):
        last = {"Last-Event-ID": cursor}
        assert (await api.http.post("/v1/chat/stream", json=posted, headers=last)).status_code == 404
        stream = await api.http.get(f"/v1/chats/{reading.chat_id}/stream", headers=last)
        assert stream.status_code == 404
    assert (await api.http.post(f"/v1/chats/{reading.chat_id}/cancel")).status_code == 404
    assert len(await simulator.requests(key)) == 1


async def test_an_idempotency_key_lives_as_long_as_its_chat(api, key):
    posted = body({"deltas": ["a"]})
    first = await api.ask(posted, idempotency_key=key)
    await wait_until(lambda: expired(api, first.chat_id))
    second = await api.ask(posted | {"temperature": 1}, idempotency_key=key)
    assert second.status == 200
    assert second.chat_id != first.chat_id


async def test_a_running_chat_does_not_expire(api):
    reading = await api.ask(body({"deltas": numbered(10), "interval": 0.4}))
    assert [event.data for event in reading.events] == [*numbered(10), "[DONE]"]
