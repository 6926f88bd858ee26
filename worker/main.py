"""The worker process: composition, and the settings that `arq worker.main.WorkerSettings` reads.

`run` is what `piropiro worker` calls: arq's worker with the doorbell. Plain arq runs the same settings by polling:
slower to pick up a chat, otherwise the same.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from arq import func
from arq.connections import ArqRedis

from shared import collector, keys
from shared.chat import new_token
from shared.connect import FAILURES, REPLY_TIMEOUT, connect
from shared.log import ChatLog, Fenced
from shared.queue import GENERATE, JobQueue, dump_job, load_job
from shared.settings import InvalidSettings, Settings
from shared.subscriber import Callbacks, Subscriber
from shared.sweep import Sweep
from shared.wire import Requests
from worker.alive import show_life
from worker.compact import Compactor
from worker.doorbell import DoorbellWorker
from worker.generate import Generator
from worker.lease import Lease
from worker.log_writer import LogWriter
from worker.responses import ResponsesUpstream
from worker.stopper import Stopper
from worker.upstream import OpenAIUpstream, Upstream

logger = logging.getLogger(__name__)

_POLL = 1.0
_GOODBYE = 1.0
"""Seconds that leaving the list of workers may take; otherwise the others see the silence."""

_FOREVER = 1_000_000
"""arq's own limits on tries and on jobs it looks at are ours to set: attempts are counted in the chat's record."""

_BEYOND_OUR_LIMIT = 60.0
"""arq's job time-out comes after ours, which ends the chat visibly."""


async def generate(ctx: dict[str, Any], chat_id: str) -> None:
    """arq's job function: one chat, until it has ended or is somebody else's."""
    generator: Generator = ctx["generator"]
    await generator.run(chat_id)
    compactor: Compactor = ctx["compactor"]
    compactor.add(chat_id)


def make_upstream(settings: Settings) -> Upstream:
    """The upstream that the settings name; to be made inside the event loop."""
    return ResponsesUpstream(settings) if settings.upstream == "responses" else OpenAIUpstream(settings)


def arq_options(
    settings: Settings, make: Callable[[Settings], Upstream], alive_file: Path | None = None
) -> dict[str, Any]:
    """The options of arq's `Worker` for these settings; nothing is connected before its `on_startup`."""
    stack = AsyncExitStack()

    async def on_startup(ctx: dict[str, Any]) -> None:
        parts = _running_parts(settings, make(settings), alive_file)
        ctx["generator"], ctx["compactor"] = await stack.enter_async_context(parts)
        collector.calm()

    async def on_shutdown(_: dict[str, Any]) -> None:
        await stack.aclose()

    return {
        "functions": [func(generate, name=GENERATE)],
        "queue_name": keys.QUEUE,
        "redis_pool": ArqRedis(
            connect(settings.redis_url).connection_pool,
            job_serializer=dump_job,
            job_deserializer=load_job,
            default_queue_name=keys.QUEUE,
        ),
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "max_jobs": settings.max_jobs,
        "queue_read_limit": _FOREVER,
        "max_tries": _FOREVER,
        "job_timeout": settings.job_timeout + _BEYOND_OUR_LIMIT,
        "job_completion_wait": max(1, round(settings.drain)),
        "keep_result": 0,
        "log_results": False,
        "job_serializer": dump_job,
        "job_deserializer": load_job,
    }


@asynccontextmanager
async def _running_parts(
    settings: Settings, upstream: Upstream, alive_file: Path | None
) -> AsyncIterator[tuple[Generator, Compactor]]:
    """Everything beside arq that a worker runs, for as long as the context lasts."""
    redis = connect(settings.redis_url)
    appends = Requests(redis, REPLY_TIMEOUT)
    log = ChatLog(redis, settings.retention, appends)
    queue = JobQueue(redis)
    writer = LogWriter(log)
    compactor = Compactor(log)
    worker_id = new_token()
    generator = Generator(
        log=log, queue=queue, writer=writer, upstream=upstream, settings=settings, worker_id=worker_id
    )
    lease = Lease(
        redis=redis,
        log=log,
        queue=queue,
        worker_id=worker_id,
        lease=settings.lease,
        max_attempts=settings.max_attempts,
        generator=generator,
    )

    def lose(chat_id: bytes) -> None:
        attempt = generator.running.get(chat_id.decode())
        if attempt is not None:
            attempt.lose(Fenced())

    subscriber = Subscriber(redis)
    subscriber.subscribe(keys.worker_channel(worker_id), Callbacks(subscribed=lambda: None, message=lose))
    background = [
        asyncio.create_task(_vital(part))
        for part in (
            writer.run(),
            compactor.run(),
            subscriber.run(),
            *([Stopper(log, upstream).run()] if settings.upstream == "responses" else []),
            lease.run(),
            Sweep(redis, log, queue_timeout=settings.queue_timeout, job_timeout=settings.job_timeout).run(),
            *([show_life(alive_file, lease, settings.job_timeout)] if alive_file else []),
        )
    ]
    try:
        yield generator, compactor
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        with contextlib.suppress(TimeoutError, *FAILURES):
            async with asyncio.timeout(_GOODBYE):
                await lease.resign()
        appends.close()
        await redis.aclose()
        await upstream.close()


async def _vital(part: Coroutine[Any, Any, None]) -> None:
    """Run a part the worker cannot do without: if it fails, the worker stops (and hands its chats over)."""
    try:
        await part
    except Exception:
        logger.critical("a part of the worker failed, stopping", exc_info=True)
        signal.raise_signal(signal.SIGTERM)


def run(settings: Settings, alive_file: Path | None = None) -> None:
    """Run one worker until SIGINT or SIGTERM; `alive_file` shows that it is well (`worker.alive`)."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("arq.worker").setLevel(logging.WARNING)  # a line per job would say nothing new
    asyncio.set_event_loop(uvloop.new_event_loop())
    # One connection, and a reply that may take as long as the bell stays silent.
    bell = connect(settings.redis_url, max_connections=1)
    worker = DoorbellWorker(
        queue=JobQueue(connect(settings.redis_url, max_connections=4)),
        bell=bell,
        poll_delay=_POLL,
        **arq_options(settings, make_upstream, alive_file),
    )
    worker.run()


def __getattr__(name: str) -> dict[str, Any]:
    """`WorkerSettings`, for arq's command line; the environment is read when it is asked for."""
    if name != "WorkerSettings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return arq_options(Settings.from_env(), make_upstream)
    except InvalidSettings as error:
        sys.exit(str(error))
