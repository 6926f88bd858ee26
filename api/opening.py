"""Waiting before an answer has its status: for its beginning, so that a refusal is an HTTP error, or for its end."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from api.errors import ApiError, unanswered
from api.tail import Encoder, Follower
from shared.connect import FAILURES
from shared.cursor import TERMINAL, EntryId
from shared.events import Entry, Kind

_RETRY = 0.2
_LOOK = 60.0

Result = TypeVar("Result")


async def wait_for_answer(
    request: Request, follower: Follower, *, since: EntryId, patience: float, headers: Mapping[str, str]
) -> bytes:
    """Wait until the log has its first chunk above `since`, or its end; at most `patience` seconds.

    It gives the frames up to there, and perhaps some more; the follower, which is at the log's start, goes on after.

    Raises:
        ApiError: the chat ended without an answer; `headers` go with it. The follower is closed.
        ClientDisconnect: the client left. The follower is closed.
    """
    watch = _Watch(follower.encoder, since)
    follower.encoder = watch
    try:
        await unless_left(request, _until_over(follower, watch, patience))
    except BaseException:
        follower.close()
        raise
    follower.encoder = watch.encoder
    if watch.refusal is not None:
        follower.close()
        raise unanswered(watch.refusal, headers)
    return b"".join(watch.frames)


async def wait_for_end(request: Request, follower: Follower, headers: Mapping[str, str]) -> None:
    """Let the follower's encoder have the log to its end, and close the follower.

    Raises:
        ApiError: this replica ends before; `headers` go with it.
        ClientDisconnect: the client left.
    """
    try:
        await unless_left(request, _until_none(follower))
    finally:
        follower.close()
    if follower.position != TERMINAL:
        raise ApiError(
            503,
            "This replica ends before the answer is complete. Ask again with the same Idempotency-Key, or read the "
            "chat that X-Chat-Id names.",
            type_="server_error",
            code="stream_interrupted",
            headers={"Retry-After": "1", **headers},
        )


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do `work`, but not for a client that has left. The request's body has been read.

    Raises:
        ClientDisconnect: it left; the work is cancelled.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _until_none(follower: Follower) -> None:
    """Let the follower's encoder see entries until the stream ends."""
    while True:
        try:
            if await follower.next(_LOOK) is None:
                return
        except FAILURES:
            await asyncio.sleep(_RETRY)


async def _until_over(follower: Follower, watch: "_Watch", patience: float) -> None:
    """Let the watch see entries until it has seen enough, or the stream ends."""
    time = asyncio.get_running_loop().time
    deadline = time() + patience
    while not watch.is_over:
        try:
            await follower.next(deadline - time())
        except FAILURES:
            if time() < deadline:
                await asyncio.sleep(_RETRY)
                continue
        return


class _Watch:
    """Stands for another encoder, whose frames it collects, until the answer begins or the log ends."""

    is_shared = False
    shows_places = False

    def __init__(self, encoder: Encoder, since: EntryId) -> None:
        self.encoder = encoder
        self.frames: list[bytes] = []
        self.is_over = False
        self.refusal: Entry | None = None
        self._since = since

    def frame(self, entry: Entry) -> bytes:
        self.frames.append(self.encoder.frame(entry))
        if not self.is_over and entry.id > self._since and (entry.is_chunk or entry.is_terminal):
            self.is_over = True
            if entry.is_terminal and entry.kind is not Kind.DONE:
                self.refusal = entry
        return b""

    def interrupted(self) -> bytes | None:
        return self.encoder.interrupted()
