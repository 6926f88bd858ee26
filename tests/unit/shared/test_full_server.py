"""A server that is full refuses a script at the first command that takes memory: nothing before it may have changed."""

import pytest
from redis.exceptions import OutOfMemoryError

from shared import events, keys
from shared.chat import new_chat_id
from shared.connect import connect
from shared.log import Appended, Batch, ChatLog, Claimed, Sealed, Unserved
from shared.queue import Created, HandedOver, JobQueue, NewChat


@pytest.fixture
async def redis(server_url):
    """Only a real server knows when it is full."""
    client = connect(server_url)
    await client.flushall()
    yield client
    await client.config_set("maxmemory", 0)
    await client.aclose()


async def content(redis):
    """Everything the server holds."""
    return {key: await redis.dump(key) for key in sorted(await redis.keys())}


async def refused_then_served(redis, call):
    """Call while the server is full, which must change nothing; then the answer when there is room again."""
    before = await content(redis)
    await redis.config_set("maxmemory", 1)
    try:
        refusal = await call()
        assert isinstance(refusal[0], Unserved)
    except OutOfMemoryError:
        pass
    await redis.config_set("maxmemory", 0)
    assert await content(redis) == before
    return await call()


async def test_nothing_changes_while_the_server_is_full(redis):
    log, queue = ChatLog(redis, 60), JobQueue(redis)
    chat = NewChat(new_chat_id(), "m", b"{}", "f", idempotency_key="k")

    def claim(token):
        return lambda: log.claim(chat.id, token=token, worker_id="w", reason="-")

    assert await refused_then_served(redis, lambda: queue.submit(chat, 10)) == Created()
    assert await refused_then_served(redis, lambda: queue.start(f"{chat.id}:1", 60_000)) is not None
    assert isinstance(await refused_then_served(redis, claim("A")), Claimed)
    batch = Batch(chat.id, "A", 1, 2, 1, [b"tx"])
    assert await refused_then_served(redis, lambda: log.append([batch])) == [Appended()]
    assert await refused_then_served(redis, lambda: queue.hand_over(chat.id, "A", failed=True)) == HandedOver()
    assert isinstance(await refused_then_served(redis, claim("B")), Claimed)
    assert isinstance(await refused_then_served(redis, lambda: log.seal(chat.id, events.cancelled())), Sealed)


async def test_an_orphan_ends_wholly_or_not_at_all(redis):
    log, chat = ChatLog(redis, 60), NewChat(new_chat_id(), "m", b"{}", "f")
    await JobQueue(redis).submit(chat, 10)
    await redis.delete(keys.WAITING)
    assert isinstance(await refused_then_served(redis, lambda: log.end_orphan(chat.id, events.cancelled())), Sealed)


async def test_a_record_that_missed_its_end_is_concluded_wholly_or_not_at_all(redis):
    log, chat = ChatLog(redis, 60), NewChat(new_chat_id(), "m", b"{}", "f")
    await JobQueue(redis).submit(chat, 10)
    before = await redis.dump(keys.record(chat.id))
    await log.seal(chat.id, events.cancelled())
    await redis.restore(keys.record(chat.id), 0, before, replace=True)
    assert isinstance(await refused_then_served(redis, lambda: log.end_orphan(chat.id, events.cancelled())), Sealed)
    assert await redis.hget(keys.record(chat.id), "status") == b"cancelled"


async def test_a_log_is_compacted_wholly_or_not_at_all(redis):
    log, chat = ChatLog(redis, 60), NewChat(new_chat_id(), "m", b"{}", "f")
    await JobQueue(redis).submit(chat, 10)
    await log.claim(chat.id, token="A", worker_id="w", reason="-")
    await log.append([Batch(chat.id, "A", 1, 2, 1, [b"t"] * 100, events.cancelled())])
    assert await refused_then_served(redis, lambda: log.compact(chat.id))
