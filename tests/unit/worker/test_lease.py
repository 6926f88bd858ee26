import asyncio

import pytest
from harness.polling import wait_until

from shared import keys
from shared.chat import new_chat_id
from shared.queue import NewChat
from worker.lease import Beat, Lease, Watch

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


def look_every_half_second(watch, marks, start, end):
    """Look from `start` to `end`, both included; the times at which a worker was found dead, by worker."""
    beats = {worker: Beat(mark) for worker, mark in marks.items()}
    found = {}
    for step in range(round(2 * start), round(2 * end) + 1):
        for worker in watch.look(beats, now=step / 2):
            found.setdefault(worker, step / 2)
    return found


def test_a_beat_that_stays_the_same_for_a_lease_is_a_dead_workers():
    watch = Watch(LEASE)
    assert look_every_half_second(watch, {"a": b"1", "b": b"1"}, 10, 12) == {}
    assert look_every_half_second(watch, {"a": b"1", "b": b"2"}, 12.5, 14) == {"a": 13.5}
    assert look_every_half_second(watch, {"a": b"2", "b": b"2"}, 14.5, 16) == {"b": 16}


def test_what_a_beat_has_aged_before_it_is_seen_counts():
    watch = Watch(LEASE)
    watch.look({"a": Beat(b"1", age=0.4)}, now=10)
    assert look_every_half_second(watch, {"a": b"1"}, 10.5, 14) == {"a": 13}


@pytest.mark.parametrize(("age", "dead_at"), [(1000.0, 13), (-1000.0, 13.5)])
def test_a_clock_that_jumped_counts_no_more_than_a_beats_interval(age, dead_at):
    watch = Watch(LEASE)
    watch.look({"a": Beat(b"1", age)}, now=10)
    assert look_every_half_second(watch, {"a": b"1"}, 10.5, 14) == {"a": dead_at}


def test_silence_counts_only_while_we_reached_the_server():
    watch = Watch(LEASE)
    look_every_half_second(watch, {"a": b"1"}, 10, 12.5)
    watch.blink()
    assert look_every_half_second(watch, {"a": b"1"}, 13, 17) == {"a": 16.5}


def test_a_long_gap_between_two_looks_counts_as_a_short_one():
    watch = Watch(LEASE)
    look_every_half_second(watch, {"a": b"1"}, 10, 10.5)
    assert look_every_half_second(watch, {"a": b"1"}, 30, 32) == {"a": 32}


def test_looks_that_all_come_late_find_the_dead_nevertheless():
    watch = Watch(LEASE)
    found = [watch.look({"a": Beat(b"1")}, now) for now in range(0, 60, 10)]
    assert found == [[], [], [], [], ["a"], ["a"]]


def test_a_worker_that_left_the_list_is_forgotten():
    watch = Watch(LEASE)
    look_every_half_second(watch, {"a": b"1"}, 10, 12.5)
    watch.look({}, now=13)
    assert look_every_half_second(watch, {"a": b"1"}, 13.5, 15) == {}


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
