"""Admission at the edge: how a request that creates a chat is read, gets its place in the queue, and follows it."""

from typing import Annotated

from fastapi import Depends, Header, Request

from api import openapi
from api.errors import ApiError
from api.services import Services
from api.submit import Options
from api.tail import Encoder, Follower
from shared.chat import OnDisconnect
from shared.cursor import EntryId
from shared.queue import Exists, NewChat, QueueFull


async def read_options(
    idempotency_key: Annotated[str, Header(alias="Idempotency-Key", description=openapi.IDEMPOTENCY_KEY)] = "",
    on_worker_loss: Annotated[str, Header(alias="X-Piropiro-On-Worker-Loss", description=openapi.ON_WORKER_LOSS)] = "",
    on_disconnect: Annotated[str, Header(alias="X-Piropiro-On-Disconnect", description=openapi.ON_DISCONNECT)] = "",
) -> Options:
    """FastAPI dependency: the headers that shape a chat, unchecked."""
    return Options(idempotency_key, on_worker_loss, on_disconnect)


OptionsParam = Annotated[Options, Depends(read_options)]


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body.

    Raises:
        ApiError: 413, as soon as it is known to be longer than `limit` bytes.
    """
    too_large = ApiError(413, f"The body is larger than {limit} bytes (PIROPIRO_MAX_BODY).", code="body_too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large
    return bytes(body)


async def admit(deps: Services, chat: NewChat, *, is_read: bool = False) -> Exists | None:
    """Create a chat, unless its idempotency key belongs to one already; `is_read`: the caller is about to follow it.

    Raises:
        ApiError: 422 or 429.
    """
    if is_read and chat.on_disconnect is OnDisconnect.CANCEL:  # before it exists, lest it be left without being read
        await deps.queue.keep_readers([chat.id])
    outcome = await deps.queue.submit(chat, deps.settings.max_queue)
    if isinstance(outcome, QueueFull):
        raise ApiError(
            429,
            f"{outcome.waiting} chats are waiting already; try again later.",
            type_="rate_limit_error",
            code="queue_full",
            headers={"Retry-After": "1"},
        )
    if isinstance(outcome, Exists):
        if outcome.fingerprint != chat.fingerprint:
            raise ApiError(
                422,
                "The Idempotency-Key was used with another body.",
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        return outcome
    return None


async def follow(
    deps: Services, chat_id: str, after: EntryId, encoder: Encoder, on_disconnect: OnDisconnect
) -> Follower:
    """Follow a chat's log from above `after`; the caller must close the follower."""
    leaves = on_disconnect is OnDisconnect.CANCEL
    if leaves:
        await deps.queue.keep_readers([chat_id])
    return deps.tails.follow(chat_id, after, encoder, cancels_when_left=leaves)
