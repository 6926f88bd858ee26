"""A stream as an ASGI response: frames as they come, keep-alives when idle, an end when the client has left.

A client that stops reading is worth no more than one write of memory, and not for ever. ASGI's `send` bounds neither:
uvicorn queues 64 KiB before it waits, which take 1 MB if they are a thousand small frames, and then it waits without
end. So we go by the connection below: nothing more is taken from the follower before the client has taken what was
written, and a client that takes nothing for `PIROPIRO_WRITE_TIMEOUT` is cut. If it comes back, it resumes where it was.
"""

import asyncio
import contextlib
import fcntl
import logging
import sys
import termios
from typing import cast

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from api.sse import KEEP_ALIVE, queued_frame
from api.tail import Follower, Place
from shared.connect import FAILURES

logger = logging.getLogger(__name__)

_RETRY = 0.2
_LOOK = 1.0


class StreamResponse(Response):
    """Sends what a follower gives until its end, and closes the follower in any case.

    `keepalive` and `write_timeout` are in seconds: without an event, and without the client's taking anything.
    """

    def __init__(self, chat_id: str, follower: Follower, keepalive: float, write_timeout: float) -> None:
        super().__init__(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache, no-transform",
                "X-Accel-Buffering": "no",
                "X-Chat-Id": chat_id,
                "Content-Location": f"/v1/chats/{chat_id}/stream",
            }
        )
        del self.headers["content-length"]
        self._follower = follower
        self._keepalive = keepalive
        self._write_timeout = write_timeout

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(self._await_disconnect(receive))
        try:
            await self._send_all(_Client(send, _connection(receive), self._follower, self._write_timeout))
        finally:
            leaving.cancel()
            self._follower.close()

    async def _send_all(self, client: "_Client") -> None:
        await client.start(self.raw_headers)
        while (frames := await self._next()) is not None:
            await client.write(frames)
            del frames  # which may be long in the taking
            await client.until_taken()
        await client.end()

    async def _next(self) -> bytes | None:
        try:
            step = await self._follower.next(self._keepalive)
        except FAILURES as error:
            logger.warning("stream cannot read its log, trying again: %s", error)
            await asyncio.sleep(_RETRY)
            return KEEP_ALIVE
        if isinstance(step, Place):
            return queued_frame(step.position)
        return KEEP_ALIVE if step == b"" else step

    async def _await_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._follower.close()


class _Client:
    """The far end of a response: written to no faster than it reads, cut when it does not read at all."""

    def __init__(
        self, send: Send, connection: asyncio.WriteTransport | None, follower: Follower, write_timeout: float
    ) -> None:
        self._send = send
        self._connection = connection
        self._follower = follower
        self._write_timeout = write_timeout
        if connection is not None:
            with contextlib.suppress(RuntimeError):  # the client has left already
                connection.set_write_buffer_limits(high=1)

    async def start(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self._try_send({"type": "http.response.start", "status": 200, "headers": headers})
        # Proxies and clients see the headers before there is a first event.
        await self._send_body(b"")

    async def write(self, frames: bytes) -> None:
        await self._send_body(frames)

    async def until_taken(self) -> None:
        """Return when the client has taken what was written; cut it if it takes nothing for too long."""
        connection, patience = self._connection, self._write_timeout
        if connection is None:
            return
        if not connection.get_write_buffer_size():
            return
        left = _unsent(connection)
        while left:
            try:
                async with asyncio.timeout(_LOOK):
                    await self._send_body(b"")
            except TimeoutError:
                before, left = left, _unsent(connection)
                patience = self._write_timeout if left < before else patience - _LOOK
                if patience <= 0 or (left >= before and self._follower.is_over):
                    logger.info("cutting a client that does not read")
                    connection.abort()
                    return
            else:
                return

    async def end(self) -> None:
        await self._send_body(b"", more=False)

    async def _send_body(self, frames: bytes, *, more: bool = True) -> None:
        await self._try_send({"type": "http.response.body", "body": frames, "more_body": more})

    async def _try_send(self, message: Message) -> None:
        try:
            await self._send(message)
        except RuntimeError as error:  # uvloop's, where the client left with further requests pipelined
            logger.debug("client gone: %s", error)
            self._follower.close()


def _unsent(connection: asyncio.WriteTransport) -> int:
    """Bytes that the client has not acknowledged: ours, and the kernel's where it tells (Linux)."""
    ours, peer = connection.get_write_buffer_size(), connection.get_extra_info("socket")
    try:
        return ours + int.from_bytes(fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):
        return ours


def _connection(receive: Receive) -> asyncio.WriteTransport | None:
    """The transport below uvicorn's `receive`, which ASGI has no word for; None under another server."""
    cycle = getattr(receive, "__self__", None)
    return cast("asyncio.WriteTransport | None", getattr(cycle, "transport", None))
