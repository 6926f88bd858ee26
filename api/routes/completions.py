"""`/v1/chat/completions`: OpenAI's Chat Completions, streaming and not, over the same logs."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from api import openapi
from api.admission import OptionsParam, admit, follow, read_body
from api.completions import Completion, CompletionStream
from api.errors import ApiError, json_response, unanswered, unknown_chat, within_patience
from api.opening import wait_for_answer, wait_for_end
from api.services import Deps, Services
from api.stream import StreamResponse
from api.submit import compose_chat, invalid, parse_object
from shared.chat import OnDisconnect, Surface
from shared.cursor import ACCEPTED, START, EntryId
from shared.events import Kind
from shared.queue import NewChat

router = APIRouter(prefix="/v1", tags=["openai"])


@dataclass(frozen=True, slots=True)
class Found:
    """The chat that a request created, or that its idempotency key belongs to.

    There is nothing to show up to `after`, which is where to follow it from, and what lies up to `since` is superseded:
    the last restart before the request.
    """

    chat_id: str
    on_disconnect: OnDisconnect
    after: EntryId = START
    since: EntryId = START

    @property
    def headers(self) -> dict[str, str]:
        """What every answer about it says; SDKs show the second one."""
        return {"X-Chat-Id": self.chat_id, "x-request-id": self.chat_id}


@router.post("/chat/completions", **openapi.COMPLETIONS)
async def create_completion(request: Request, deps: Deps, options: OptionsParam) -> Response:
    """Answer as OpenAI's Chat Completions do: with a stream of chunks, or with one completion when it is whole."""
    body = parse_object(await read_body(request, deps.settings.max_body))
    chat = compose_chat(body, options, deps.settings.model, Surface.COMPLETIONS)
    is_streamed = _flag(body, "stream")
    with_usage = _flag(body.get("stream_options") or {}, "include_usage")
    async with within_patience():
        found = await _find_or_create(deps, chat)
    try:
        if is_streamed:
            return await _stream(request, deps, found, with_usage=with_usage)
        return await _whole(request, deps, found)
    except ApiError as error:
        error.headers = found.headers | error.headers
        raise


async def _find_or_create(deps: Services, chat: NewChat) -> Found:
    """Create the chat, unless its idempotency key belongs to one already.

    Raises:
        ApiError: 404, 422 or 429.
    """
    existing = await admit(deps, chat, is_read=True)
    if existing is None:
        return Found(chat.id, chat.on_disconnect, after=ACCEPTED)
    known = await deps.log.find(existing.chat_id)
    if known is None:
        raise unknown_chat(existing.chat_id)
    since = await deps.log.last_restart(known.id) if known.attempts > 1 else START
    return Found(known.id, known.on_disconnect, since=since)


async def _stream(request: Request, deps: Services, found: Found, *, with_usage: bool) -> Response:
    """The chunks, once there is one; until then the chat may still be refused.

    Raises:
        ApiError: the chat ended without an answer.
    """
    settings = deps.settings
    encoder = CompletionStream(with_usage=with_usage, since=found.since)
    async with within_patience():
        follower = await follow(deps, found.chat_id, found.after, encoder, found.on_disconnect)
    prefix = await wait_for_answer(
        request, follower, since=found.since, patience=settings.keepalive, headers=found.headers
    )
    headers = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        **found.headers,
    }
    return StreamResponse(follower, headers, settings.keepalive, settings.write_timeout, prefix)


async def _whole(request: Request, deps: Services, found: Found) -> Response:
    """The completion, when it is whole.

    Raises:
        ApiError: the chat ended without it, or the replica ends before the chat does.
    """
    fold = Completion()
    async with within_patience():
        follower = await follow(deps, found.chat_id, found.after, fold, found.on_disconnect)
    await wait_for_end(request, follower, found.headers)
    assert fold.terminal is not None
    if fold.terminal.kind is not Kind.DONE:
        raise unanswered(fold.terminal)
    return json_response(fold.result(), headers=found.headers)


def _flag(body: dict[str, Any], name: str) -> bool:
    """A member that is true or false, or absent.

    Raises:
        ApiError: 400, it is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, "must be true or false")
    return bool(value)
