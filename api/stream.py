"""A stream as an ASGI response: frames as they come, keep-alives when idle, an end when the client has left."""

import asyncio
import logging

from fastapi import Response
from starlette.types import Receive, Scope, Send

from api.sse import KEEP_ALIVE, queued_frame
from api.tail import Follower, Place
from shared.connect import FAILURES

logger = logging.getLogger(__name__)

_RETRY = 0.2


class StreamResponse(Response):
    """Sends what a follower gives until its end, and closes the follower in any case."""

    def __init__(self, chat_id: str, follower: Follower, keepalive: float) -> None:
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

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(self._await_disconnect(receive))
        try:
            await self._send_all(send)
        finally:
            leaving.cancel()
            self._follower.close()

    async def _send_all(self, send: Send) -> None:
        async def write(frames: bytes, *, more: bool = True) -> None:
            try:
                await send({"type": "http.response.body", "body": frames, "more_body": more})
            except RuntimeError as error:  # uvloop's, where the client left with further requests pipelined
                logger.debug("client gone: %s", error)
                self._follower.close()

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # Proxies and clients see the headers before there is a first event.
        await write(b"")
        while (frames := await self._next()) is not None:
            await write(frames)
        await write(b"", more=False)

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
