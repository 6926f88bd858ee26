import pytest

from shared.log import ChatLog
from shared.queue import JobQueue


@pytest.fixture
def log(redis):
    return ChatLog(redis, retention=60)


@pytest.fixture
def queue(redis):
    return JobQueue(redis)
