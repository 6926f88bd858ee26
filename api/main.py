"""The API process: composition and lifespan of one replica."""

import asyncio
import importlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import TYPE_CHECKING

from fastapi import FastAPI

from api.errors import install_handlers
from api.routes import chats, completions, health, models, responses
from api.routes.page import page_router
from api.services import Services
from api.stream import HoldStreams
from api.tail import Tails
from shared import collector
from shared.connect import connect
from shared.log import ChatLog
from shared.queue import JobQueue
from shared.settings import InvalidSettings, Settings
from shared.subscriber import Subscriber
from shared.sweep import Sweep

if TYPE_CHECKING:
    from api.passthrough import Passthrough

logger = logging.getLogger(__name__)

_DESCRIPTION = """Streams LLM answers through a queue. A client that loses its connection sends the id of the last event
it has (`Last-Event-ID`), to any replica, and goes on exactly there."""


def create_app(settings: Settings) -> FastAPI:
    """Compose a replica; it connects to Redis when it is started."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        redis = connect(settings.redis_url)
        log, queue, subscriber = ChatLog(redis, settings.retention), JobQueue(redis), Subscriber(redis)
        tails = Tails(log, queue, subscriber)
        leaving, opened = asyncio.Event(), AsyncExitStack()
        app.state.services = Services(settings, log, queue, tails, leaving, _late_passthrough(settings, opened))
        background = [
            asyncio.create_task(part)
            for part in (
                subscriber.run(),
                tails.run(),
                Sweep(redis, log, queue_timeout=settings.queue_timeout, job_timeout=settings.job_timeout).run(),
            )
        ]
        for task in background:
            task.add_done_callback(_stop_if_failed)
        collector.calm()
        restore = _call_on_stop(leaving.set, settings.linger, tails.drain)
        try:
            yield
        finally:
            restore()
            tails.drain()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await opened.aclose()
            await redis.aclose()

    app = FastAPI(
        title="Piropiro", description=_DESCRIPTION, version="0.1.0", lifespan=lifespan, redirect_slashes=False
    )
    app.include_router(chats.router)
    app.include_router(completions.router)
    app.include_router(models.router)
    app.include_router(responses.router)
    app.include_router(health.router)
    app.include_router(page_router())
    install_handlers(app)
    app.add_middleware(HoldStreams)
    return app


def _late_passthrough(settings: Settings, opened: AsyncExitStack) -> "Callable[[], Awaitable[Passthrough]]":
    """What makes one, when it is first asked for, and has `opened` close it.

    Few replicas are ever asked, and aiohttp takes 6 MB and a quarter of a second, for which no stream shall stand
    still.
    """
    lock, made = asyncio.Lock(), list["Passthrough"]()

    async def passthrough() -> "Passthrough":
        async with lock:
            if not made:
                module = await asyncio.to_thread(importlib.import_module, "api.passthrough")
                made.append(module.Passthrough.of(settings))
                opened.push_async_callback(made[0].close)
        return made[0]

    return passthrough


def _stop_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("a part of the replica failed, stopping", exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)


def _call_on_stop(announce: Callable[[], None], linger: float, stop: Callable[[], None]) -> Callable[[], None]:
    """Have the server, told to end, `announce` it, serve on for `linger` seconds, and `stop` before it ends.

    Told again, it ends at once. uvicorn tells the application only after every connection is closed, which an open
    stream would put off for ever. So its signal handlers are wrapped; the function returned puts them back.
    """
    loop = asyncio.get_running_loop()
    wrapped, is_told = {}, False
    for signum in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(signum)
        if not callable(before):
            continue

        def handle(
            signum: int, frame: FrameType | None, before: Callable[[int, FrameType | None], object] = before
        ) -> None:
            nonlocal is_told
            if linger and not is_told:
                is_told = True
                loop.call_soon_threadsafe(announce)
                loop.call_soon_threadsafe(lambda: loop.call_later(linger, handle, signum, None))
                return
            loop.call_soon_threadsafe(stop)
            before(signum, frame)

        try:
            signal.signal(signum, handle)
        except ValueError:  # not the main thread: whoever runs the server there ends it otherwise
            break
        wrapped[signum] = before

    def restore() -> None:
        for signum, before in wrapped.items():
            signal.signal(signum, before)

    return restore


def __getattr__(name: str) -> FastAPI:
    """`app`, for `uvicorn api.main:app`; the environment is read when it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return create_app(Settings.from_env())
    except InvalidSettings as error:
        sys.exit(str(error))
