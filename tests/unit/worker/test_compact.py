import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from worker import compact
from worker.compact import Compactor


class Log:
    """Notes what it is to compact; some of it fails."""

    def __init__(self):
        self.failures = {"unreachable": RedisConnectionError(), "spoilt": ValueError()}
        self.compacted, self.at_once = [], 0

    async def compact(self, chat_id):
        self.at_once += 1
        assert self.at_once == 1
        await asyncio.sleep(0)
        self.at_once -= 1
        if chat_id in self.failures:
            raise self.failures[chat_id]
        self.compacted.append(chat_id)


@pytest.fixture
def log():
    return Log()


async def run_until(compactor, is_true):
    running = asyncio.create_task(compactor.run())
    async with asyncio.timeout(5):
        while not is_true():
            await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_logs_are_compacted_one_at_a_time_and_a_failure_stops_nothing(log):
    compactor = Compactor(log)
    for chat_id in ("a", "unreachable", "b", "spoilt", "c"):
        compactor.add(chat_id)
    await run_until(compactor, lambda: log.compacted == ["a", "b", "c"])


async def test_what_waits_is_bounded_and_the_rest_is_left_as_it_is(log, monkeypatch):
    monkeypatch.setattr(compact, "_BACKLOG", 3)
    compactor = Compactor(log)
    for number in range(9):
        compactor.add(str(number))
    await run_until(compactor, lambda: len(log.compacted) == 3)
    assert log.compacted == ["0", "1", "2"]
