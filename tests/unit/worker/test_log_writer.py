import asyncio

import pytest
from harness.polling import wait_until
from redis import exceptions

from shared import events, keys
from shared.chat import new_chat_id
from shared.cursor import START, EntryId
from shared.log import Sealed, Unserved
from shared.queue import NewChat
from worker.log_writer import LogLost, LogWriter

DONE = events.done("stop", None)


class Troubled:
    """A chat log whose appends meet the given troubles, in order, before they work again."""

    def __init__(self, log, *troubles):
        self.log = log
        self.troubles = list(troubles)
        self.flushes = []

    async def append(self, batches):
        self.flushes.append(batches)
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble == "lost before":
            raise exceptions.ConnectionError
        results = await self.log.append(batches)
        if trouble == "lost after":
            raise exceptions.ConnectionError
        return [Unserved("OOM") for _ in batches] if trouble == "refused" else results


@pytest.fixture
async def attempt(log, queue, writer):
    """An open attempt, and how often it was told that it lost its log."""
    return await open_attempt(log, queue, writer)


async def open_attempt(log, queue, writer, token="A"):
    chat = NewChat(new_chat_id(), "m", b"{}", "f")
    await queue.submit(chat, 10)
    claim = await log.claim(chat.id, token=token, worker_id="w", reason="-")
    return writer.open(
        chat.id,
        token,
        claim.attempt,
        claim.length,
        on_lost=lambda: None,
        reclaim=lambda: log.reclaim(chat.id, claim, token=token, worker_id="w", reason="-"),
    )


async def stored(log, attempt):
    return [entry.value for entry in await log.read(attempt.chat_id, EntryId(attempt.attempt, 0), 10_000)]


async def test_what_is_appended_is_stored_in_order_and_sealed(log, attempt):
    values = [b"t%d" % n for n in range(1000)]
    for value in values:
        attempt.append(value)
    await attempt.seal(DONE)
    assert await stored(log, attempt) == [*values, DONE]
    assert not attempt.is_lost


async def test_chunks_gather_while_a_flush_is_in_flight(log, queue):
    troubled = Troubled(log)
    writer = LogWriter(troubled)
    running = asyncio.create_task(writer.run())
    first, second = await open_attempt(log, queue, writer), await open_attempt(log, queue, writer)
    first.append(b"t1")
    await asyncio.sleep(0)
    for n in range(50):
        first.append(b"t%d" % n)
        second.append(b"t%d" % n)
    await first.flushed()
    await second.flushed()
    assert len(troubled.flushes) <= 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("trouble", ["lost before", "lost after", "refused"])
async def test_a_flush_in_trouble_is_sent_again_and_nothing_is_doubled(log, queue, trouble):
    writer = LogWriter(Troubled(log, None, trouble, trouble))
    running = asyncio.create_task(writer.run())
    attempt = await open_attempt(log, queue, writer)
    for n in range(600):
        attempt.append(b"t%d" % n)
    await attempt.seal(DONE)
    assert await stored(log, attempt) == [*(b"t%d" % n for n in range(600)), DONE]
    assert not attempt.is_lost
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_entries_that_a_failover_forgot_are_appended_anew(log, attempt, redis):
    for n in range(5):
        attempt.append(b"t%d" % n)
    await attempt.flushed()
    # A stream's top cannot be lowered, so the older state is put back as a failover would.
    older = (await redis.xrange(keys.log(attempt.chat_id)))[:-3]
    await redis.delete(keys.log(attempt.chat_id))
    for entry_id, fields in older:
        await redis.xadd(keys.log(attempt.chat_id), fields, id=entry_id)
    attempt.append(b"t5")
    await attempt.seal(DONE)
    assert await stored(log, attempt) == [*(b"t%d" % n for n in range(6)), DONE]


async def test_a_fenced_attempt_is_told_once_and_appends_nothing_more(log, queue, writer):
    told = []
    attempt = await open_attempt(log, queue, writer)
    attempt._on_lost = lambda: told.append(1)
    await log.claim(attempt.chat_id, token="B", worker_id="w", reason="-")
    attempt.append(b"tx")
    with pytest.raises(LogLost):
        await attempt.flushed()
    with pytest.raises(LogLost):
        attempt.append(b"ty")
    with pytest.raises(LogLost):
        await attempt.seal(DONE)
    assert attempt.is_lost
    assert told == [1]
    assert await stored(log, attempt) == [(await log.read(attempt.chat_id, EntryId(1, 0), 1))[0].value]


async def test_a_seal_that_another_won_is_a_loss(log, attempt):
    assert await log.seal(attempt.chat_id, events.cancelled()) == Sealed(events.cancelled())
    with pytest.raises(LogLost):
        await attempt.seal(DONE)


async def test_an_attempt_whose_chat_is_gone_is_lost(log, attempt, redis):
    await redis.delete(keys.log(attempt.chat_id), keys.record(attempt.chat_id))
    attempt.append(b"tx")
    with pytest.raises(LogLost):
        await attempt.flushed()


async def test_an_attempt_is_full_while_too_much_is_unstored_and_has_room_afterwards(log, queue):
    writer = LogWriter(log)
    attempt = await open_attempt(log, queue, writer)
    while not attempt.is_full:
        attempt.append(b"t" + b"x" * 10_000)
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(10):
        await attempt.room()
    assert not attempt.is_full
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def forget_claim(redis, queue, attempt):
    """Let the server know of the chat only that it waits, as after a failover to a replica that lagged."""
    await redis.delete(keys.record(attempt.chat_id), keys.log(attempt.chat_id), keys.RUNNING)
    await queue.submit(NewChat(attempt.chat_id, "m", b"{}", "f"), 10)


async def test_an_attempt_whose_claim_was_forgotten_claims_and_stores_all_of_it_again(redis, log, queue, attempt):
    attempt.append(b"t1")
    await attempt.flushed()
    before = await log.read(attempt.chat_id, START, 10)
    await forget_claim(redis, queue, attempt)
    attempt.append(b"t2")
    await attempt.seal(DONE)
    after = await log.read(attempt.chat_id, START, 10)
    assert after[: len(before)] == before
    assert await stored(log, attempt) == [b"t1", b"t2", DONE]
    assert await redis.zcard(keys.WAITING) == 0


async def test_a_doubted_attempt_finds_out_whether_it_is_lost(redis, log, queue, attempt):
    attempt.append(b"t1")
    await attempt.flushed()
    await forget_claim(redis, queue, attempt)
    attempt.doubt()
    await wait_until_running(log, attempt)
    assert await stored(log, attempt) == [b"t1"]
    assert not attempt.is_lost
    await log.claim(attempt.chat_id, token="B", worker_id="w", reason="-")
    attempt.doubt()
    with pytest.raises(LogLost):
        await attempt._until(lambda: False)


async def wait_until_running(log, attempt):
    async def is_stored():
        return await stored(log, attempt) == [b"t1"]

    await wait_until(is_stored)


async def test_a_forgotten_claim_of_a_chat_that_another_took_is_lost(redis, log, queue, attempt):
    attempt.append(b"t1")
    await attempt.flushed()
    await forget_claim(redis, queue, attempt)
    await log.claim(attempt.chat_id, token="B", worker_id="w", reason="-")
    attempt.append(b"t2")
    with pytest.raises(LogLost):
        await attempt.flushed()
    assert await stored(log, attempt) == []
