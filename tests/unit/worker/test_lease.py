import asyncio

import pytest
from harness.polling import wait_until

from shared import keys
from shared.chat import new_chat_id
from shared.queue import NewChat
from worker.lease import Lease, Watch

LEASE = 3


class Idle:
    """A generator that generates nothing."""

    def __init__(self):
        self.running = {}
        self.held = set()


class SlowQueue:
    """Hands over when it is told to."""

    def __init__(self, queue):
        self._queue = queue
        self.asked = []
        self.may_go_on = asyncio.Event()

    async def hand_over(self, chat_id, token, *, failed):
        self.asked.append(chat_id)
        await self.may_go_on.wait()
        return await self._queue.hand_over(chat_id, token, failed=failed)


@pytest.fixture
async def slow_queue(redis, log, queue):
    """A queue that takes its time, while a worker watches two chats of a dead one."""
    for _ in range(2):
        chat = NewChat(new_chat_id(), "m", b"{}", "f")
        await queue.submit(chat, 10)
        await log.claim(chat.id, token=chat.id, worker_id="dead", reason="")
    slow = SlowQueue(queue)
    lease = Lease(redis=redis, log=log, queue=slow, worker_id="me", lease=0.2, max_attempts=3, generator=Idle())
    running = asyncio.create_task(lease.run())
    yield slow
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def look_every_second(watch, beats, start, end):
    return [watch.look(beats, now=now) for now in range(start, end + 1)]


def test_a_beat_that_stays_the_same_for_a_lease_is_a_dead_workers():
    watch = Watch(LEASE)
    assert look_every_second(watch, {"a": b"1", "b": b"1"}, 0, 2) == [[], [], []]
    assert look_every_second(watch, {"a": b"1", "b": b"2"}, 3, 4) == [[], ["a"]]
    assert look_every_second(watch, {"a": b"2", "b": b"2"}, 5, 6) == [[], []]


def test_silence_counts_only_while_we_looked():
    watch = Watch(LEASE)
    look_every_second(watch, {"a": b"1"}, 0, 2)
    watch.blink()
    assert look_every_second(watch, {"a": b"1"}, 3, 7) == [[], [], [], [], ["a"]]


def test_a_gap_between_two_looks_gives_everybody_a_whole_lease():
    watch = Watch(LEASE)
    look_every_second(watch, {"a": b"1"}, 0, 2)
    assert look_every_second(watch, {"a": b"1"}, 12, 16) == [[], [], [], [], ["a"]]


def test_a_worker_that_left_the_list_is_forgotten():
    watch = Watch(LEASE)
    look_every_second(watch, {"a": b"1"}, 0, 2)
    watch.look({}, now=3)
    assert look_every_second(watch, {"a": b"1"}, 4, 6) == [[], [], []]


async def test_a_worker_beats_on_while_it_takes_chats_over(redis, slow_queue):
    await wait_until(lambda: slow_queue.asked)
    before = await redis.zscore(keys.WORKERS, "me")

    async def has_beaten():
        return await redis.zscore(keys.WORKERS, "me") > before + 1000 * LEASE / 10

    await wait_until(has_beaten)
    assert await redis.hlen(keys.RUNNING) == 2


async def test_a_dead_workers_chats_are_each_handed_over_once(redis, slow_queue):
    await wait_until(lambda: len(slow_queue.asked) == 2)
    slow_queue.may_go_on.set()

    async def are_waiting():
        return await redis.zcard(keys.WAITING) == 2

    await wait_until(are_waiting)
    assert len(slow_queue.asked) == len(set(slow_queue.asked)) == 2
