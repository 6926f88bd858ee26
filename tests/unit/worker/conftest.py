import asyncio

import pytest

from worker.log_writer import LogWriter


@pytest.fixture
async def writer(log):
    writer = LogWriter(log)
    running = asyncio.create_task(writer.run())
    yield writer
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
