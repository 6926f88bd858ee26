"""How a worker starts: when Redis fails meanwhile, and when a chat rings meanwhile."""

import asyncio
import contextlib

import arq.worker
import pytest
from arq import func
from arq.connections import ArqRedis
from harness.polling import wait_until

from shared import keys
from shared.chat import new_chat_id
from shared.connect import connect
from shared.queue import GENERATE, JobQueue, NewChat, dump_job, load_job
from worker.doorbell import DoorbellWorker


class Start:
    """A worker whose start can be watched and held up."""

    def __init__(self, url):
        self.events = []
        self.clients = [connect(url), connect(url), connect(url)]
        queue, bell, pool = self.clients
        self.worker = DoorbellWorker(
            queue=JobQueue(queue),
            bell=bell,
            poll_delay=0.1,
            functions=[func(self.generate, name=GENERATE)],
            queue_name=keys.QUEUE,
            redis_pool=ArqRedis(
                pool.connection_pool,
                job_serializer=dump_job,
                job_deserializer=load_job,
                default_queue_name=keys.QUEUE,
            ),
            on_startup=self.on_startup,
            keep_result=0,
            handle_signals=False,
            job_serializer=dump_job,
            job_deserializer=load_job,
        )

    async def on_startup(self, _):
        self.events.append("started")

    async def generate(self, _, chat_id):
        self.events.append(chat_id)


@pytest.fixture
async def start(server_url):
    redis = connect(server_url)
    await redis.flushall()
    start = Start(server_url)
    task = None

    def run():
        nonlocal task
        task = asyncio.create_task(start.worker.main())
        return start

    yield run
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await asyncio.gather(*start.worker.tasks.values())
    for client in (redis, *start.clients):
        await client.aclose()


async def test_a_worker_starts_although_redis_failed_at_first(start, monkeypatch):
    attempts = []

    async def log_redis_info(*_):
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError

    monkeypatch.setattr(arq.worker, "log_redis_info", log_redis_info)
    started = start()
    await wait_until(lambda: started.events)
    assert len(attempts) == 2


async def test_a_chat_that_rings_during_the_start_is_taken_after_it(start, server_url, monkeypatch):
    is_held, may_go_on = asyncio.Event(), asyncio.Event()

    async def log_redis_info(*_):
        is_held.set()
        await may_go_on.wait()

    monkeypatch.setattr(arq.worker, "log_redis_info", log_redis_info)
    started = start()
    await is_held.wait()
    redis = connect(server_url)
    chat = NewChat(new_chat_id(), "m", b"{}", "f")
    await JobQueue(redis).submit(chat, 10)
    for _ in range(20):  # round trips: many more than it takes to start a job
        await redis.ping()
        await asyncio.sleep(0.005)
    assert started.events == []
    may_go_on.set()
    await wait_until(lambda: len(started.events) > 1)
    assert started.events == ["started", chat.id]
    await redis.aclose()


async def test_a_slot_is_counted_on_by_one_caller_only(start):
    worker = start().worker
    worker.max_jobs = 2
    first, second = asyncio.create_task(worker.start_jobs([b"a", b"b"])), asyncio.create_task(worker.start_jobs([b"c"]))
    await asyncio.sleep(0)
    assert worker.job_counter == 2
    await asyncio.gather(first, second)
    assert worker.job_counter == 0  # nobody had enqueued them
