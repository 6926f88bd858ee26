import asyncio
import os
from dataclasses import dataclass

import pytest
from harness.polling import wait_until

from worker.alive import show_life

PATIENCE = 600


@dataclass
class FakeLease:
    silence: float


@pytest.fixture
def old_file(tmp_path):
    file = tmp_path / "alive"
    file.touch()
    os.utime(file, (0, 0))
    return file


@pytest.fixture
async def show():
    tasks = []

    def start(file, silence):
        tasks.append(asyncio.create_task(show_life(file, FakeLease(silence), PATIENCE)))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_worker_that_reaches_redis_touches_its_file(show, old_file):
    show(old_file, silence=0)
    await wait_until(lambda: old_file.stat().st_mtime > 0)


async def test_a_worker_stays_alive_while_redis_is_away(show, old_file):
    show(old_file, silence=PATIENCE - 1)
    await wait_until(lambda: old_file.stat().st_mtime > 0)


async def test_a_worker_that_has_lost_redis_for_good_lets_its_file_grow_old(show, old_file):
    show(old_file, silence=PATIENCE)
    await asyncio.sleep(0)
    assert old_file.stat().st_mtime == 0


async def test_a_file_that_cannot_be_touched_stops_nothing(show, tmp_path):
    task = show(tmp_path / "nowhere" / "alive", silence=0)
    await asyncio.sleep(0)
    assert not task.done()
