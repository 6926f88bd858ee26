"""The upstream: answers at once, or holds the chat open until it is told, and notes when each request arrived."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator

from bench.wire import chunk, read_message

HOLD = "hold"
"""How the label of a chat begins whose answer stays open until `release`."""

ANSWER = "ok"
_PATIENCE = 30.0
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    data = {"id": "bench", "object": "chat.completion.chunk", "created": 0, "model": "bench", "choices": [choice]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


_ROLE = _event({"role": "assistant", "content": ""})
_DELTA = _event({"content": ANSWER})
_END = _event({}, "stop") + b"data: [DONE]\n\n"


class Upstream:
    """An OpenAI-compatible server in the bench's own process, so that client and upstream share a clock.

    `arrivals` tells by label when the chat's first request was read (`time.perf_counter`); `requests` how many came;
    `open` counts the answers that are held now; `connections` those accepted so far.
    """

    def __init__(self) -> None:
        self.arrivals: dict[str, float] = {}
        self.requests: dict[str, int] = {}
        self.connections = 0
        self.open = 0
        self.pace = 0.0
        """Deltas per second of each held answer."""
        self._released = asyncio.Event()
        self._changed = asyncio.Condition()
        self._handlers: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        """Serve for as long as the context is open."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1024)
        try:
            yield
        finally:
            server.close()
            for handler in self._handlers:
                handler.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)

    def hold(self, pace: float = 0.0) -> None:
        """From now on, hold what is to be held; meanwhile send `pace` deltas per second on each."""
        self._released.clear()
        self.pace = pace

    def release(self) -> None:
        """Finish every held answer."""
        self._released.set()

    async def until_open(self, count: int) -> None:
        """Wait until that many answers are held at once, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE), self._changed:
                await self._changed.wait_for(lambda: self.open >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        try:
            while True:
                await self._answer(reader, writer)
        except (EOFError, OSError, asyncio.CancelledError):
            pass  # the worker is gone, or `serving` ends; asyncio would log a handler that was cancelled
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_message(reader)
        arrived = time.perf_counter()
        label: str = json.loads(request.body)["messages"][-1]["content"]
        self.arrivals.setdefault(label, arrived)
        self.requests[label] = self.requests.get(label, 0) + 1
        if label.startswith(HOLD):
            writer.write(_HEAD + chunk(_ROLE))
            await self._hold(writer)
            writer.write(chunk(_END) + chunk(b""))
        else:
            writer.write(_HEAD + chunk(_ROLE + _DELTA + _END) + chunk(b""))
        await writer.drain()

    async def _hold(self, writer: asyncio.StreamWriter) -> None:
        await self._count(1)
        try:
            pause = random.uniform(0, 1 / self.pace) if self.pace else None
            while not self._released.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._released.wait(), pause)
                    return
                writer.write(chunk(_DELTA))
                pause = 1 / self.pace
        finally:
            await self._count(-1)

    async def _count(self, change: int) -> None:
        self.open += change
        async with self._changed:
            self._changed.notify_all()
