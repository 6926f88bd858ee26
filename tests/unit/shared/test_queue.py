import asyncio

from arq.constants import in_progress_key_prefix, job_key_prefix
from arq.jobs import deserialize_job_raw

from shared import events, keys
from shared.chat import job_id, new_chat_id
from shared.cursor import START
from shared.log import ChatLog
from shared.queue import GENERATE, Created, Exists, NewChat, QueueFull, load_job


def a_chat(**options):
    return NewChat(new_chat_id(), "m", b"{}", options.pop("fingerprint", "f"), **options)


async def test_a_submitted_chat_has_record_log_job_place_and_bell(queue, redis):
    chat = a_chat()
    assert await queue.submit(chat, 10) == Created()
    job = job_id(chat.id, 1)
    assert await redis.hget(keys.record(chat.id), "status") == b"queued"
    assert [entry.value for entry in await ChatLog(redis, 60).read(chat.id, START, 9)] == [events.accepted()]
    assert await redis.zscore(keys.QUEUE, job) is not None
    assert await queue.waiting(10) == [job]
    assert await redis.lrange(keys.DOORBELL, 0, -1) == [job.encode()]


async def test_the_job_is_arqs_in_json_never_pickle(queue, redis):
    chat = a_chat()
    await queue.submit(chat, 10)
    payload = await redis.get(job_key_prefix + job_id(chat.id, 1))
    assert payload.startswith(b"{")
    name, args, kwargs, _, _ = deserialize_job_raw(payload, deserializer=load_job)
    assert (name, args, kwargs) == (GENERATE, [chat.id], {})


async def test_a_submission_sent_twice_creates_once(queue, redis):
    chat = a_chat(idempotency_key="k")
    assert await queue.submit(chat, 1) == Created()
    assert await queue.submit(chat, 1) == Created()
    assert await queue.waiting(10) == [job_id(chat.id, 1)]
    assert await redis.llen(keys.DOORBELL) == 1


async def test_an_idempotency_key_leads_to_its_first_chat_also_when_the_queue_is_full(queue, redis):
    first, second = a_chat(idempotency_key="k"), a_chat(idempotency_key="k", fingerprint="other")
    await queue.submit(first, 1)
    assert await queue.submit(second, 1) == Exists(first.id, "f")
    assert await redis.exists(keys.record(second.id)) == 0


async def test_a_key_that_expired_with_its_chat_is_free_again(queue, redis):
    first = a_chat(idempotency_key="k")
    await queue.submit(first, 10)
    await ChatLog(redis, 0.02).seal(first.id, events.cancelled())
    second = a_chat(idempotency_key="k")
    async with asyncio.timeout(10):
        while await queue.submit(second, 10) != Created():
            await asyncio.sleep(0.01)


async def test_a_full_queue_creates_nothing(queue, redis):
    await queue.submit(a_chat(), 1)
    refused = a_chat(idempotency_key="k")
    assert await queue.submit(refused, 1) == QueueFull(1)
    assert await redis.exists(keys.record(refused.id), keys.log(refused.id), keys.idempotency("k")) == 0


async def test_positions_are_by_age(queue):
    chats = [a_chat() for _ in range(3)]
    for chat in chats:
        await queue.submit(chat, 10)
    assert await queue.positions([chat.id for chat in reversed(chats)]) == [3, 2, 1]
    assert await queue.waiting(2) == [job_id(chat.id, 1) for chat in chats[:2]]


async def test_a_job_is_started_by_one_caller_only(queue):
    chat = a_chat()
    await queue.submit(chat, 10)
    started = await asyncio.gather(*(queue.start(job_id(chat.id, 1), 10_000) for _ in range(5)))
    assert sum(score is not None for score in started) == 1


async def test_a_job_that_was_started_but_never_claimed_can_be_started_again(queue, redis):
    chat = a_chat()
    await queue.submit(chat, 10)
    job = job_id(chat.id, 1)
    await queue.start(job, 600_000)
    assert await queue.start(job, 600_000) is None
    await redis.pexpire(in_progress_key_prefix + job, 594_000)
    assert await queue.start(job, 600_000) is not None


async def test_a_claimed_job_is_not_started_again_however_long_it_runs(queue, redis):
    chat = a_chat()
    await queue.submit(chat, 10)
    job = job_id(chat.id, 1)
    await queue.start(job, 600_000)
    await ChatLog(redis, 60).claim(chat.id, token="A", worker_id="w", reason="-")
    await redis.pexpire(in_progress_key_prefix + job, 594_000)
    assert await queue.start(job, 600_000) is None


async def test_an_unknown_job_cannot_be_started(queue):
    assert await queue.start("chat_x:1", 1000) is None


async def test_bells_are_bounded(queue, redis):
    await redis.rpush(keys.DOORBELL, *range(5000))
    chat = a_chat()
    await queue.submit(chat, 10)
    assert await redis.llen(keys.DOORBELL) == 1000
    assert await redis.lindex(keys.DOORBELL, -1) == job_id(chat.id, 1).encode()


async def test_a_handover_replaces_the_old_job(queue, redis):
    chat = a_chat()
    await queue.submit(chat, 10)
    await queue.start(job_id(chat.id, 1), 600_000)
    await ChatLog(redis, 60).claim(chat.id, token="A", worker_id="w", reason="-")
    await queue.hand_over(chat.id, "A", failed=False)
    old, new = job_id(chat.id, 1), job_id(chat.id, 2)
    assert await redis.zrange(keys.QUEUE, 0, -1) == [new.encode()]
    assert await redis.exists(job_key_prefix + old, in_progress_key_prefix + old) == 0
    assert await queue.start(new, 600_000) is not None


async def test_a_handover_after_several_attempts_of_one_job_removes_that_job(queue, redis):
    chat, log = a_chat(), ChatLog(redis, 60)
    await queue.submit(chat, 10)
    await log.claim(chat.id, token="A", worker_id="w", reason="-")
    await log.claim(chat.id, token="B", worker_id="w", reason="-", previous="A", failed=True)
    await queue.hand_over(chat.id, "B", failed=False)
    assert await redis.zrange(keys.QUEUE, 0, -1) == [job_id(chat.id, 3).encode()]
    assert await redis.exists(job_key_prefix + job_id(chat.id, 1)) == 0


async def test_only_workers_within_the_lease_are_live(queue, redis):
    seconds, _ = await redis.time()
    await redis.zadd(keys.WORKERS, {"alive": seconds * 1000, "silent": seconds * 1000 - 60_000})
    assert await queue.live_workers(5000) == 1
