"""`/v1/responses`: OpenAI's Responses API over chats and their logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from api import openapi
from api.admission import OptionsParam, admit, follow, read_body
from api.errors import ApiError, json_response, unanswered, within_patience
from api.opening import wait_for_answer, wait_for_end
from api.responses.checks import invalid, unknown
from api.responses.encoder import ResponseEncoder, Silence
from api.responses.fold import ResponseFold
from api.responses.history import history_of, input_items
from api.responses.items import references_of
from api.responses.request import INCLUDABLE, ResponseRequest, parse_request
from api.responses.shape import Head, chat_id_of, response_id_of, response_of
from api.services import Deps, Services
from api.stream import StreamResponse
from api.submit import compose, parse_object
from api.tail import Follower
from shared import events
from shared.chat import Chat, Surface
from shared.cursor import START, EntryId
from shared.events import Entry, Json, Kind
from shared.log import Gone

router = APIRouter(prefix="/v1/responses", tags=["openai"])

_UNSTORED_MS = 60_000
"""How long after its end a response with `store: false` is kept: for its own readers, a repeated POST among them."""

_MOST_ITEMS = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A response as it stands."""

    chat: Chat
    head: Head
    entries: list[Entry]
    fold: ResponseFold

    @property
    def shape(self) -> Json:
        """The response object."""
        finished = self.chat.finished_ms
        return self.fold.response(completed_at=finished // 1000 if finished is not None else None)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How a GET wants a response: as it stands, or as a stream of the events after one."""

    stream: bool
    starting_after: int | None


async def read_retrieval(
    request: Request,
    *,
    stream: Annotated[
        bool, Query(description="Replay the events, then follow live; background responses only")
    ] = False,
    starting_after: Annotated[int | None, Query(ge=0, description="Only events with a larger sequence_number")] = None,
) -> Retrieval:
    """FastAPI dependency: the query of a GET.

    Raises:
        ApiError: 400 that names the parameter.
    """
    check_query(request, ("stream", "starting_after", "include_obfuscation"))
    if starting_after is not None and not stream:
        raise invalid("starting_after", "it needs stream=true")
    return Retrieval(stream, starting_after)


def check_query(request: Request, known: Sequence[str]) -> None:
    """Refuse what a query may not have; `include` may have what a POST's may have.

    Raises:
        ApiError: 400 that names the parameter.
    """
    for name, value in request.query_params.multi_items():
        if name in ("include", "include[]"):
            if value not in INCLUDABLE:
                raise invalid("include", f"supported values are {', '.join(sorted(INCLUDABLE))}")
        elif name not in known:
            raise unknown(name)


@router.post("", **openapi.CREATE_RESPONSE)
async def create(request: Request, deps: Deps, options: OptionsParam) -> Response:
    """Create a response: in the background or not, as a stream of events or as one object."""
    posted = await read_body(request, deps.settings.max_body)
    body = parse_object(posted)
    async with within_patience():
        asked = parse_request(body, deps.settings.model, await _referenced(deps, body))
        upstream_request = asked.upstream_request(await _history(deps, asked))
        retention_ms = None if asked.is_stored else _UNSTORED_MS
        chat = compose(body, upstream_request, options, Surface.RESPONSES, asked.origin, retention_ms)
        _check_size(chat.request, deps.settings.max_body, len(posted))
        existing = await admit(deps, chat, is_read=asked.stream or not asked.is_background)
        chat_id = chat.id if existing is None else existing.chat_id
        if asked.is_background and not asked.stream:
            return _answer(await _find(deps, chat_id))
        record = await deps.log.find(chat_id)
        if record is None:
            raise _not_found(response_id_of(chat_id))
        if asked.stream:
            last_restart = await _last_restart(deps, record)
            follower = await _follow(deps, record, None, last_restart)
        else:
            follower = await follow(deps, chat_id, START, Silence(), record.on_disconnect)
    if not asked.stream:
        return await _whole(request, deps, follower, chat_id)
    prefix = b""
    if not asked.is_background:
        patience, headers = deps.settings.keepalive, _headers(chat_id)
        prefix = await wait_for_answer(request, follower, since=last_restart, patience=patience, headers=headers)
    return _stream(deps, follower, chat_id, prefix)


@router.get("/{response_id}", **openapi.READ_RESPONSE)
async def retrieve(response_id: str, deps: Deps, retrieval: Annotated[Retrieval, Depends(read_retrieval)]) -> Response:
    """The response as it stands; with `stream=true` its events, from the first or from after `starting_after`."""
    async with within_patience():
        if not retrieval.stream:
            return _answer(await _find_stored(deps, response_id))
        record = await _find_record(deps, response_id)
        if not _head(record).is_background:
            message = "Only a response that was created with background=true can be streamed again."
            raise ApiError(400, message, param="stream", code="invalid_value")
        after = retrieval.starting_after
        last_restart = START if after is not None else await _last_restart(deps, record)
        follower = await _follow(deps, record, after, last_restart)
    return _stream(deps, follower, record.id)


@router.post("/{response_id}/cancel", **openapi.CHANGE_RESPONSE)
async def cancel(response_id: str, deps: Deps) -> Response:
    """End the response now; one that has ended stays as it is."""
    async with within_patience():
        record = await _find_record(deps, response_id)
        if isinstance(await deps.log.seal(record.id, events.cancelled()), Gone):
            raise _not_found(response_id)
        return _answer(await _find(deps, record.id))


@router.delete("/{response_id}", **openapi.CHANGE_RESPONSE)
async def delete(response_id: str, deps: Deps) -> Response:
    """Remove the response and everything of it; one that is being generated is cancelled."""
    async with within_patience():
        record = await _find_record(deps, response_id)
        await deps.log.delete(record.id)
        return json_response({"id": response_id, "object": "response", "deleted": True}, 200, _headers(record.id))


@router.get("/{response_id}/input_items", **openapi.READ_RESPONSE)
async def list_input_items(
    request: Request,
    response_id: str,
    deps: Deps,
    after: Annotated[str, Query(description="Only items beyond this one")] = "",
    limit: Annotated[int, Query(ge=1, le=_MOST_ITEMS)] = 20,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
) -> Response:
    """The items that the model was given, those of previous responses included."""
    check_query(request, ("after", "limit", "order"))
    async with within_patience():
        record = await _find_record(deps, response_id)
        stored = await deps.log.request(record.id)
        if stored is None:
            raise _not_found(response_id)
    items = input_items(_head(record), stored)
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if after and after not in ids:
        raise invalid("after", "there is no such item")
    rest = items[ids.index(after) + 1 :] if after else items
    page = rest[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
    listed = {"object": "list", "data": page, **ends, "has_more": len(rest) > limit}
    return json_response(listed, 200, _headers(record.id))


def _check_size(request: bytes, limit: int, posted: int) -> None:
    """Check what a conversation has become, which each response keeps whole: `posted` bytes and those from before.

    Raises:
        ApiError: 413.
    """
    if len(request) > limit + posted:
        message = f"What the response is to go on with is larger than {limit} bytes (PIROPIRO_MAX_BODY)."
        raise ApiError(413, message, param="input", code="body_too_large")


async def _history(deps: Services, asked: ResponseRequest) -> list[Json]:
    """The conversation that a request goes on with.

    Raises:
        ApiError: 400, the previous response is not there, or not ready.
    """
    previous_id = asked.previous_response_id
    if previous_id is None:
        return []
    unknown_previous = ApiError(
        400,
        f"Previous response with id '{previous_id[:64]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )
    try:
        previous = await _find_stored(deps, previous_id)
    except ApiError:
        raise unknown_previous from None
    if not previous.fold.is_over:
        message = f"Previous response with id '{previous_id[:64]}' has not ended yet."
        raise ApiError(400, message, param="previous_response_id", code="previous_response_not_ready")
    request = await deps.log.request(previous.chat.id)
    if request is None:
        raise unknown_previous
    return history_of(previous.head, request, previous.fold.response()["output"])


async def _referenced(deps: Services, body: Json) -> dict[str, Json]:
    """The stored items that a body refers to, by id, as far as there are any: those of responses that have ended."""
    known = dict[str, Json]()
    for response_id in {response_of(item_id) for item_id in references_of(body.get("input"))} - {None}:
        try:
            found = await _find_stored(deps, str(response_id))
        except ApiError:
            continue  # what is missing is told where it is missed
        request = await deps.log.request(found.chat.id)
        if found.fold.is_over and request is not None:
            items = [*input_items(found.head, request), *found.fold.response()["output"]]
            known |= {item["id"]: item for item in items}
    return known


async def _find_record(deps: Services, response_id: str) -> Chat:
    """The record of a response that may be asked for by its id.

    Raises:
        ApiError: 404.
    """
    chat_id = chat_id_of(response_id)
    record = await deps.log.find(chat_id) if chat_id is not None else None
    if record is None or record.surface is not Surface.RESPONSES or not _head(record).is_stored:
        raise _not_found(response_id)
    return record


async def _find_stored(deps: Services, response_id: str) -> Found:
    """The same, as it stands.

    Raises:
        ApiError: 404.
    """
    return await _find(deps, (await _find_record(deps, response_id)).id)


async def _find(deps: Services, chat_id: str) -> Found:
    """A chat of this surface as a response, as it stands.

    Raises:
        ApiError: 404.
    """
    found = await deps.log.snapshot(chat_id)
    if found is None:
        raise _not_found(response_id_of(chat_id))
    chat, entries = found
    head = _head(chat)
    fold = ResponseFold(head, is_quiet=True)
    for entry in entries:
        fold.take(entry)
    return Found(chat, head, entries, fold)


async def _last_restart(deps: Services, record: Chat) -> EntryId:
    return await deps.log.last_restart(record.id) if record.attempts > 1 else START


async def _follow(deps: Services, record: Chat, starting_after: int | None, last_restart: EntryId) -> Follower:
    encoder = ResponseEncoder(_head(record), starting_after, last_restart)
    return await follow(deps, record.id, START, encoder, record.on_disconnect)


async def _whole(request: Request, deps: Services, follower: Follower, chat_id: str) -> Response:
    """The response once it has ended; the follower is closed.

    Raises:
        ApiError: it failed or was cancelled, or this replica ends before.
    """
    await wait_for_end(request, follower, _headers(chat_id))
    async with within_patience():
        found = await _find(deps, chat_id)
    terminal = found.entries[-1]
    if terminal.kind is not Kind.DONE:
        raise unanswered(terminal, _headers(chat_id))
    return _answer(found)


def _stream(deps: Services, follower: Follower, chat_id: str, prefix: bytes = b"") -> Response:
    headers = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        **_headers(chat_id),
    }
    return StreamResponse(follower, headers, deps.settings.keepalive, deps.settings.write_timeout, prefix)


def _answer(found: Found) -> Response:
    return json_response(found.shape, 200, _headers(found.chat.id))


def _headers(chat_id: str) -> dict[str, str]:
    """What every answer about a response says; SDKs show the second one."""
    return {"X-Chat-Id": chat_id, "x-request-id": chat_id}


def _head(record: Chat) -> Head:
    return Head.of(record.id, record.model, record.created_ms, record.origin)


def _not_found(response_id: str) -> ApiError:
    message = f"Response with id '{response_id[:64]}' not found."
    return ApiError(404, message, param="response_id", code="response_not_found")
