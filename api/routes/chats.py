"""`/v1/chat/stream` and `/v1/chats`: create, read, follow and cancel chats."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from api import openapi
from api.admission import OptionsParam, admit, follow, read_body
from api.errors import ApiError, json_response, lost_cursor, unknown_chat, within_patience
from api.services import Deps, Services
from api.sse import Format, NativeEncoder, stream_headers
from api.stream import StreamResponse
from api.submit import Options, new_chat
from shared import events
from shared.chat import Chat, OnDisconnect
from shared.cursor import ACCEPTED, START, TERMINAL, Cursor, EntryId, MalformedCursor
from shared.events import Entry, Transcript
from shared.log import Gone
from shared.queue import NewChat

router = APIRouter(prefix="/v1", tags=["chats"])

_HEAL = 1.0
"""Seconds that a writer gets to append anew what a failover forgot, before a cursor counts as lost."""

_HEAL_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Reading:
    """How a request wants to read: from after `cursor` (None: from the start), as `format_`.

    `param` is where the cursor stood, for errors.
    """

    cursor: Cursor | None
    param: str
    format_: Format


async def read_reading(
    format_: Annotated[str, Query(alias="format", description=openapi.FORMAT)] = "text",
    after: Annotated[str, Query(description=openapi.CURSOR)] = "",
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", description=openapi.CURSOR)] = "",
) -> Reading:
    """FastAPI dependency: format and cursor of a stream.

    Raises:
        ApiError: 400 for either.
    """
    chosen = _parse_format(format_)
    param = "Last-Event-ID" if last_event_id else "after"
    return Reading(_parse_cursor((last_event_id or after).strip(), param), param, chosen)


ReadingParam = Annotated[Reading, Depends(read_reading)]


@router.post("/chat/stream", **openapi.CREATE_AND_STREAM)
async def create_and_stream(request: Request, deps: Deps, reading: ReadingParam, options: OptionsParam) -> Response:
    """Create a chat and stream its answer; with `Last-Event-ID`, resume that chat and create nothing."""
    if reading.cursor is not None:
        async with within_patience():
            return await _resume(deps, reading.cursor.chat_id, reading)
    chat = await _read_chat(deps, request, options)
    async with within_patience():
        existing = await admit(deps, chat, is_read=True)
        if existing is not None:
            return await _resume(deps, existing.chat_id, reading)
        return await _follow(deps, chat.id, ACCEPTED, reading.format_, chat.on_disconnect)


@router.post("/chats", **openapi.CREATE)
async def create(request: Request, deps: Deps, options: OptionsParam) -> Response:
    """Create a chat; read it later."""
    chat = await _read_chat(deps, request, options)
    async with within_patience():
        existing = await admit(deps, chat)
        chat_id = existing.chat_id if existing is not None else chat.id
        return json_response(await _describe(deps, chat_id), 202, {"Location": f"/v1/chats/{chat_id}"})


@router.get("/chats/{chat_id}", **openapi.READ)
async def read(chat_id: str, deps: Deps) -> Response:
    """The chat as it stands: status, text so far, and the cursor from which a stream would go on."""
    async with within_patience():
        return json_response(await _describe(deps, chat_id))


@router.get("/chats/{chat_id}/stream", **openapi.STREAM)
async def stream(chat_id: str, deps: Deps, reading: ReadingParam) -> Response:
    """Replay the chat from a cursor or from the start, then follow it live."""
    if reading.cursor is not None and reading.cursor.chat_id != chat_id:
        raise _bad_cursor("The cursor belongs to another chat.", reading.param)
    async with within_patience():
        return await _resume(deps, chat_id, reading)


@router.post("/chats/{chat_id}/cancel", **openapi.CANCEL)
async def cancel(chat_id: str, deps: Deps) -> Response:
    """End the chat now, whoever is generating it. Cancelling a chat that has ended changes nothing."""
    async with within_patience():
        outcome = await deps.log.seal(chat_id, events.cancelled())
        if isinstance(outcome, Gone):
            raise unknown_chat(chat_id)
        return json_response(await _describe(deps, chat_id))


async def _read_chat(deps: Services, request: Request, options: Options) -> NewChat:
    """The chat that a request asks for.

    Raises:
        ApiError: 400 or 413.
    """
    return new_chat(await read_body(request, deps.settings.max_body), options, deps.settings.model)


async def _resume(deps: Services, chat_id: str, reading: Reading) -> Response:
    after = reading.cursor.entry_id if reading.cursor is not None else START
    chat = await _find(deps, chat_id, after, reading.param)
    if after == TERMINAL:
        return Response(status_code=204)
    return await _follow(deps, chat_id, after, reading.format_, chat.on_disconnect)


async def _find(deps: Services, chat_id: str, after: EntryId, param: str) -> Chat:
    """The chat, if `after` is its start or an entry of its log; a failover's loss gets a moment to heal.

    Raises:
        ApiError: 404 or 410.
    """
    give_up = asyncio.get_running_loop().time() + _HEAL
    while True:
        chat, is_entry = await deps.log.look_up(chat_id, after)
        if chat is None:
            raise unknown_chat(chat_id)
        if after == START or is_entry:
            return chat
        if chat.status.is_terminal or asyncio.get_running_loop().time() > give_up:
            raise lost_cursor(param)
        await asyncio.sleep(_HEAL_POLL)


async def _follow(
    deps: Services, chat_id: str, after: EntryId, format_: Format, on_disconnect: OnDisconnect
) -> Response:
    follower = await follow(deps, chat_id, after, NativeEncoder(chat_id, format_), on_disconnect)
    settings = deps.settings
    return StreamResponse(follower, stream_headers(chat_id), settings.keepalive, settings.write_timeout)


async def _describe(deps: Services, chat_id: str) -> dict[str, Any]:
    found = await deps.log.snapshot(chat_id)
    if found is None:
        raise unknown_chat(chat_id)
    return _chat_json(*found)


def _chat_json(chat: Chat, entries: list[Entry]) -> dict[str, Any]:
    transcript = Transcript.of(entries)
    terminal = transcript.terminal.payload() if transcript.terminal else {}
    return {
        "id": chat.id,
        "status": chat.status,
        "model": chat.model,
        "created_at": _seconds(chat.created_ms),
        "started_at": _seconds(chat.started_ms),
        "finished_at": _seconds(chat.finished_ms),
        "attempts": chat.attempts,
        "text": transcript.text,
        "finish_reason": terminal.get("finish_reason"),
        "usage": terminal.get("usage"),
        "error": terminal.get("error"),
        "cursor": str(Cursor(chat.id, transcript.top or START)),
    }


def _seconds(ms: int | None) -> float | None:
    return ms / 1000 if ms is not None else None


def _parse_format(text: str) -> Format:
    try:
        return Format(text)
    except ValueError:
        raise ApiError(400, "format must be 'text' or 'json'.", param="format", code="invalid_value") from None


def _parse_cursor(text: str, param: str) -> Cursor | None:
    """The cursor that a request carries; empty counts as absent."""
    if not text:
        return None
    try:
        return Cursor.parse(text)
    except MalformedCursor as error:
        raise _bad_cursor(f"Malformed cursor: {error}.", param) from None


def _bad_cursor(message: str, param: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_cursor")
