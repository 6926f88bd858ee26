import pytest

from shared import keys
from shared.chat import OnDisconnect, Status, new_chat_id
from shared.queue import NewChat
from shared.sweep import Sweep

DAY = 86_400


@pytest.fixture
def sweep(redis, log):
    return Sweep(redis, log, queue_timeout=60)


@pytest.fixture
async def chat_id(queue):
    chat = NewChat(new_chat_id(), "m", b"{}", "f", on_disconnect=OnDisconnect.CANCEL)
    await queue.submit(chat, 10)
    return chat.id


async def make_older(redis, *indexes):
    """Let everything in these sorted sets have come a day earlier."""
    for index, unit in indexes:
        for member, score in await redis.zrange(index, 0, -1, withscores=True):
            await redis.zadd(index, {member: score - DAY * unit})


async def status(log, chat_id):
    chat, _ = await log.snapshot(chat_id)
    return chat.status


async def test_a_chat_that_waited_too_long_fails(sweep, redis, log, chat_id):
    await sweep.end_overdue()
    assert await status(log, chat_id) is Status.QUEUED
    await make_older(redis, (keys.WAITING, 1_000_000), (keys.QUEUE, 1000))
    await sweep.end_overdue()
    assert await status(log, chat_id) is Status.FAILED
    assert await redis.zcard(keys.WAITING) == 0


async def test_an_old_chat_that_was_just_handed_over_has_its_whole_time_again(sweep, redis, log, queue, chat_id):
    await log.claim(chat_id, token="A", worker_id="w", reason="-")
    await redis.hset(keys.record(chat_id), "created_us", 1)
    await queue.hand_over(chat_id, "A", failed=False)
    await sweep.end_overdue()
    assert await status(log, chat_id) is Status.QUEUED


async def test_what_waits_for_a_chat_that_is_gone_is_forgotten(sweep, redis):
    await redis.zadd(keys.WAITING, {"chat_gone:1": 1})
    await sweep.end_overdue()
    assert await redis.zcard(keys.WAITING) == 0


async def test_a_chat_unread_at_two_sweeps_is_cancelled(sweep, redis, log, queue, chat_id):
    await queue.keep_readers([chat_id])
    await sweep.end_left()
    await make_older(redis, (keys.READ, 1000))
    await sweep.end_left()
    assert await status(log, chat_id) is Status.QUEUED
    await sweep.end_left()
    assert await status(log, chat_id) is Status.CANCELLED
    assert await redis.zcard(keys.READ) == 0


async def test_a_reader_that_comes_back_between_two_sweeps_saves_its_chat(sweep, redis, log, queue, chat_id):
    await queue.keep_readers([chat_id])
    await make_older(redis, (keys.READ, 1000))
    await sweep.end_left()
    await queue.keep_readers([chat_id])
    await sweep.end_left()
    assert await status(log, chat_id) is Status.QUEUED
