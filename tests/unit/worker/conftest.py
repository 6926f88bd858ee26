import asyncio

import pytest

from shared.log import ChatLog
from shared.queue import JobQueue
from worker.log_writer import LogWriter


@pytest.fixture
def log(redis):
    return ChatLog(redis, retention=60)


@pytest.fixture
def queue(redis):
    return JobQueue(redis)


@pytest.fixture
async def writer(log):
    writer = LogWriter(log)
    running = asyncio.create_task(writer.run())
    yield writer
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
