import pytest

from shared import events, keys
from shared.chat import OnDisconnect, Status, new_chat_id
from shared.cursor import START
from shared.queue import NewChat
from shared.sweep import Sweep

DAY = 86_400


@pytest.fixture
def sweep(redis, log):
    return Sweep(redis, log, queue_timeout=60, job_timeout=600)


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


async def forget_job(redis, chat_id):
    await redis.delete(keys.WAITING, keys.QUEUE, f"arq:job:{chat_id}:1")


async def forget_queue(redis, chat_id):
    await redis.delete(keys.QUEUE, f"arq:job:{chat_id}:1")


async def forget_record(redis, chat_id):
    await redis.delete(keys.record(chat_id))


async def forget_log(redis, chat_id):
    await redis.delete(keys.log(chat_id))


async def end_of(log, chat_id):
    """The one terminal entry, and that nothing follows it."""
    *before, last = await log.read(chat_id, START, 100)
    assert not any(entry.is_terminal for entry in before)
    return last.payload()


@pytest.mark.parametrize("lose", [forget_job, forget_queue, forget_record, forget_log])
async def test_a_chat_of_which_something_is_lost_ends(sweep, redis, log, chat_id, lose):
    await lose(redis, chat_id)
    await sweep.search()
    assert (await end_of(log, chat_id))["error"]["code"] == "lost"
    for key in (keys.log(chat_id), keys.record(chat_id)):
        assert await redis.pttl(key) <= 60_000
    assert await redis.zcard(keys.WAITING) == await redis.hlen(keys.RUNNING) == 0 or lose is forget_record


async def test_a_running_chat_that_is_nobodys_ends(sweep, redis, log, chat_id):
    await log.claim(chat_id, token="A", worker_id="w", reason="-")
    await redis.delete(keys.RUNNING)
    await sweep.search()
    assert (await end_of(log, chat_id))["error"]["code"] == "lost"
    assert await status(log, chat_id) is Status.FAILED


async def test_a_record_that_missed_its_chats_end_learns_it(sweep, redis, log, chat_id):
    before = await redis.dump(keys.record(chat_id))
    await log.seal(chat_id, events.cancelled())
    await redis.restore(keys.record(chat_id), 0, before, replace=True)
    await sweep.search()
    assert await status(log, chat_id) is Status.CANCELLED
    assert await redis.pttl(keys.record(chat_id)) > 0


async def test_a_log_that_lost_its_end_gets_another(sweep, redis, log, chat_id):
    before = await redis.dump(keys.log(chat_id))
    await log.seal(chat_id, events.cancelled())
    await redis.restore(keys.log(chat_id), 0, before, replace=True)
    await sweep.search()
    assert (await end_of(log, chat_id))["error"]["code"] == "lost"


async def test_chats_in_order_are_left_alone(sweep, redis, log, queue, chat_id):
    running = NewChat(new_chat_id(), "m", b"{}", "f")
    await queue.submit(running, 10)
    await log.claim(running.id, token="A", worker_id="w", reason="-")
    handed_over = NewChat(new_chat_id(), "m", b"{}", "f")
    await queue.submit(handed_over, 10)
    await log.claim(handed_over.id, token="B", worker_id="w", reason="-")
    await queue.hand_over(handed_over.id, "B", failed=False)
    await sweep.search()
    statuses = [await status(log, chat) for chat in (chat_id, running.id, handed_over.id)]
    assert statuses == [Status.QUEUED, Status.RUNNING, Status.QUEUED]


async def test_a_chat_that_runs_far_too_long_fails(sweep, redis, log, chat_id):
    await log.claim(chat_id, token="A", worker_id="w", reason="-")
    await redis.hset(keys.record(chat_id), "started", 1)
    await sweep.search()
    assert (await end_of(log, chat_id))["error"]["code"] == "job_timeout"


async def test_one_search_at_a_time_is_enough(sweep, redis, log, chat_id):
    await sweep.search()
    await forget_job(redis, chat_id)
    await sweep.search()
    assert await status(log, chat_id) is Status.QUEUED
    await redis.delete(keys.SEARCH)
    await sweep.search()
    assert await status(log, chat_id) is Status.FAILED


async def test_an_ended_chat_that_lost_its_log_is_told_so(sweep, redis, log, chat_id):
    await log.seal(chat_id, events.cancelled())
    await forget_log(redis, chat_id)
    await sweep.search()
    assert (await end_of(log, chat_id))["error"]["code"] == "lost"
    assert await status(log, chat_id) is Status.FAILED


@pytest.mark.parametrize("fields", [{"status": "foo"}, {"status": "running", "started": "x"}, None])
async def test_what_cannot_be_read_stops_no_search(sweep, redis, log, chat_id, fields):
    other = keys.record("chat_strange")
    await redis.set(other, "x") if fields is None else await redis.hset(other, mapping=fields)
    await redis.set(b"piropiro:{\xff}:chat", "x")
    await forget_job(redis, chat_id)
    await sweep.search()
    assert await status(log, chat_id) is Status.FAILED
