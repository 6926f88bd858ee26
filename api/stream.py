"""A stream as an ASGI response: frames as they come, keep-alives when idle, an end when the client has left.

A client that stops reading is worth no more than one write of memory, and not for ever. ASGI's `send` bounds neither:
uvicorn queues 64 KiB before it waits, which take 1 MB if they are a thousand small frames, and then it waits without
end. So we go by the connection below: nothing more is taken from the follower before the client has taken what was
written, and a client that takes nothing for `PIROPIRO_WRITE_TIMEOUT` is cut. If it comes back, it resumes where it was.

A live stream has no task that wakes per event: the follower's call writes at once what there is. A task is made only
for what takes waiting: pages of the log, and a client slower than its stream.
"""

import asyncio
import contextlib
import fcntl
import logging
import sys
import termios
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.sse import KEEP_ALIVE, queued_frame
from api.tail import Follower, Place, Step
from shared.connect import FAILURES

logger = logging.getLogger(__name__)

_RETRY = 0.2
_LOOK = 1.0
_OPEN = "piropiro.open_streams"
"""Where a request's scope takes the stream that was opened, if somebody outside is to hold it."""


class StreamResponse(Response):
    """Sends what a follower gives until its end, and closes the follower in any case.

    `keepalive` and `write_timeout` are in seconds: without an event, and without the client's taking anything. `prefix`
    goes first: the frames that were taken from the follower already.
    """

    def __init__(
        self,
        follower: Follower,
        headers: Mapping[str, str],
        keepalive: float,
        write_timeout: float,
        prefix: bytes = b"",
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._follower = follower
        self._prefix = prefix
        self._keepalive = keepalive
        self._write_timeout = write_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _Client(send, receive, self._follower, self._write_timeout)
        stream = _Stream(client, self._follower, self._keepalive)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # Proxies and clients see the headers before there is a first event.
            await client.send(self._prefix)
            client.note_framing()
            stream.open()
            if _OPEN in scope:
                scope[_OPEN].append(stream)
                return
            await stream.until_over(receive)
        except BaseException:
            stream.close()
            raise
        stream.close()


class HoldStreams:
    """ASGI middleware that holds streams open, so that the layers between it and the endpoint need not.

    They take half of an idle stream's memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened: list[_Stream] = []
        try:
            await self._app({**scope, _OPEN: opened}, receive, send)
            for stream in opened:
                await stream.until_over(receive)
        finally:
            for stream in opened:
                stream.close()


class _Stream:
    """Moves what a follower gives to a client: at once where that can be, else in a task for as long as it cannot."""

    __slots__ = (
        "_client",
        "_follower",
        "_holder",
        "_is_gone",
        "_is_over",
        "_is_silent",
        "_keepalive",
        "_pump_task",
        "_time",
        "_timer",
        "_wrote",
    )

    def __init__(self, client: "_Client", follower: Follower, keepalive: float) -> None:
        self._client = client
        self._follower = follower
        self._keepalive = keepalive
        self._pump_task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._time = asyncio.get_running_loop().time
        self._wrote = 0.0
        self._holder: asyncio.Task[Any] | None = None
        self._is_silent = False
        self._is_over = False
        self._is_gone = False

    def open(self) -> None:
        """Send from now on, until `close` or the follower's end."""
        self._follower.on_more = self._on_more
        self._wrote = self._time()
        self._look_for_silence()
        self._on_more()

    async def until_over(self, receive: Receive) -> None:
        """Return when the client has all or has left."""
        self._holder = holder = asyncio.current_task()
        try:
            # A server says so when the client has left, and also when the response is complete.
            while not self._is_gone and (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            if not self._is_gone or holder is None:
                raise
            holder.uncancel()
        finally:
            self._holder = None

    def _give_up(self) -> bool:
        """End the response although the server will not say that it is over; there is no more to do then: True."""
        self._is_over = self._is_gone = True
        if self._holder is not None:
            self._holder.cancel()
        return True

    def close(self) -> None:
        """Leave everything as it is; the follower is closed."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._pump_task is not None:
            self._pump_task.cancel()
        self._follower.close()

    def _on_more(self) -> None:
        if self._pump_task is not None or self._is_over:
            return
        try:
            is_done = self._push()
        except Exception:
            logger.exception("a stream failed unexpectedly, cutting it")
            self._cut()
        else:
            if not is_done:
                self._pump_task = asyncio.create_task(self._pump())

    def _push(self) -> bool:
        """Send all there is, without waiting; False if there is more to do."""
        client, follower = self._client, self._follower
        while not self._is_over:
            if not client.is_ready():
                return client.has_left() and self._give_up()
            step = follower.take()
            if step is Step.LAGGING:
                return False
            frames = self._frames(step)
            if frames is None:
                break
            if not client.send_now(frames, is_last=self._is_over):
                self._give_up()
            elif follower.is_at_edge:
                break
        return True

    async def _pump(self) -> None:
        """Send all there is, waiting for the log and for the client where need be."""
        try:
            while not self._is_over:
                await self._client.until_taken()
                if self._client.has_left():
                    self._give_up()
                    break
                step = self._follower.take()
                if step is Step.LAGGING:
                    step = await self._page()
                    if not step:
                        continue
                frames = self._frames(step)
                if frames is None:
                    break
                if not await self._client.send(frames, is_last=self._is_over):
                    self._give_up()
                del step, frames  # which may be long in the taking
        except Exception:
            logger.exception("a stream failed unexpectedly, cutting it")
            self._cut()
        finally:
            self._pump_task = None

    async def _page(self) -> bytes:
        try:
            return await self._follower.catch_up()
        except FAILURES as error:
            logger.warning("stream cannot read its log, trying again: %s", error)
            await asyncio.sleep(_RETRY)
            return KEEP_ALIVE

    def _frames(self, step: bytes | Place | Step) -> bytes | None:
        """What to send of what the follower said; None if that is nothing."""
        if isinstance(step, bytes):
            frames = step
        elif isinstance(step, Place):
            frames = queued_frame(step.position)
        elif step is Step.OVER:
            self._is_over = True
            last_words = self._follower.last_words()
            if last_words is None:
                self._cut()
            return last_words
        elif self._is_silent:
            frames = KEEP_ALIVE
        else:
            return None
        self._is_silent = False
        self._wrote = self._time()
        return frames

    def _look_for_silence(self) -> None:
        """Keep the stream alive if nothing was written for long; look again when that may be so."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now >= self._wrote + self._keepalive:
            self._is_silent, self._wrote = True, now
            self._on_more()
        if not self._is_over:
            self._timer = loop.call_at(self._wrote + self._keepalive, self._look_for_silence)

    def _cut(self) -> None:
        self._client.cut()
        self._give_up()


class _Client:
    """The far end of a response: written to no faster than it reads, cut when it does not read at all."""

    __slots__ = ("_chunked", "_connection", "_cycle", "_follower", "_send", "_write_timeout")

    def __init__(self, send: Send, receive: Receive, follower: Follower, write_timeout: float) -> None:
        # ASGI has no word for the connection; uvicorn's `receive` and `send` belong to an object that holds it.
        self._cycle = cycle = getattr(receive, "__self__", None)
        connection: asyncio.WriteTransport | None = getattr(cycle, "transport", None)
        # The server's own `send`, without the framework's around it, which have seen the response start.
        self._send: Send = send if connection is None else getattr(cycle, "send", send)
        self._connection = connection
        self._chunked: asyncio.WriteTransport | None = None
        """The connection, if what is written there now are the chunks of a body."""
        self._follower = follower
        self._write_timeout = write_timeout
        if connection is not None:
            with contextlib.suppress(RuntimeError):  # the client has left already
                connection.set_write_buffer_limits(high=1)

    def note_framing(self) -> None:
        """See how the body of the response, which has begun, goes out; uvicorn's httptools protocol tells."""
        if getattr(self._cycle, "chunked_encoding", None) is True:
            self._chunked = self._connection

    def is_ready(self) -> bool:
        """Whether `send_now` may be called: all that was written is taken. Never so where the connection is unknown."""
        connection = self._connection
        return connection is not None and not connection.get_write_buffer_size() and not connection.is_closing()

    def has_left(self) -> bool:
        """Whether the connection is closed, which uvicorn tells only the last of several pipelined requests."""
        return self._connection is not None and self._connection.is_closing()

    async def send(self, frames: bytes, *, is_last: bool = False) -> bool:
        """Send, waiting for the client if need be; False if it has left without the server's having noticed.

        That is so where further requests are pipelined; uvloop raises then.
        """
        try:
            await self._send({"type": "http.response.body", "body": frames, "more_body": not is_last})
        except RuntimeError as error:
            logger.debug("client gone: %s", error)
            return False
        return True

    def send_now(self, frames: bytes, *, is_last: bool) -> bool:
        """The same without waiting: a connection that is ready takes what it is given."""
        if self._chunked is not None and frames and not is_last:
            # What uvicorn would do as well, in a fifth of the time (RFC 9112, 7.1).
            try:
                self._chunked.write(b"%x\r\n%b\r\n" % (len(frames), frames))
            except RuntimeError as error:
                logger.debug("client gone: %s", error)
                return False
            return True
        sending = self.send(frames, is_last=is_last)
        try:
            sending.send(None)
        except StopIteration as stop:
            return bool(stop.value)
        sending.close()
        raise AssertionError("the server waits where it should not")

    async def until_taken(self) -> None:
        """Return when the client has taken what was written; cut it if it takes nothing for too long."""
        connection, patience = self._connection, self._write_timeout
        if connection is None or not connection.get_write_buffer_size():
            return
        left = _unsent(connection)
        while left:
            try:
                async with asyncio.timeout(_LOOK):
                    await self.send(b"")
            except TimeoutError:
                before, left = left, _unsent(connection)
                patience = self._write_timeout if left < before else patience - _LOOK
                if patience <= 0 or (left >= before and self._follower.is_over):
                    logger.info("cutting a client that does not read")
                    connection.abort()
                    return
            else:
                return

    def cut(self) -> None:
        """End the connection at once."""
        if self._connection is not None:
            self._connection.abort()


def _unsent(connection: asyncio.WriteTransport) -> int:
    """Bytes that the client has not acknowledged: ours, and the kernel's where it tells (Linux)."""
    ours, peer = connection.get_write_buffer_size(), connection.get_extra_info("socket")
    try:
        return ours + int.from_bytes(fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError, AttributeError):
        return ours
