"""The fold: a chat's log, entry by entry, to the events of a response and to the response object.

Deterministic: the events up to an entry follow from the entries up to it and the chat's record, so that any replica
gives any reader the same bytes under the same `sequence_number`, at any time.

Order of an epoch's events: `response.created`, `response.queued` (background only, once), `response.in_progress`, the
items, and one terminal event. Text and reasoning are told one after the other; function calls stay open beside each
other until the end, since an upstream may interleave their arguments.

A restart supersedes the items so far, and no event of OpenAI's says that. So the epoch ends with an `error` event, code
`generation_restarted`, and another one begins, numbered on. A restart that supersedes nothing but the opening events
is not told at all. No event type exists for a cancelled response either: the terminal event is `response.incomplete`,
whose response has the status `cancelled`.
"""

from typing import Any, NamedTuple

from api.responses.output import REASONING, REFUSAL, SUMMARY, TEXT, Call, Item, read_logprobs
from api.responses.shape import Head, known_service_tier, response_error, response_usage
from shared import json_text
from shared.events import Entry, Json, Kind, first_choice

RESTARTED = "generation_restarted"
_RESTART_MESSAGE = (
    "The generation was restarted after a failure, and what came before is void. Read the response again."
)

_TEXT_CHUNK = Kind.TEXT_CHUNK.value
_OPEN = frozenset({"", "queued", "in_progress"})
_INCOMPLETE = {"length": "max_output_tokens", "max_tokens": "max_output_tokens", "content_filter": "content_filter"}


class Event(NamedTuple):
    """One event; `number` is its sequence_number."""

    number: int
    type: str
    data: Json

    @property
    def ends_epoch(self) -> bool:
        """It says that what came before is void."""
        return self.type == "error"

    @property
    def begins_epoch(self) -> bool:
        return self.type == "response.created"

    def frame(self) -> bytes:
        """The event on the wire (WHATWG HTML, 9.2); without an id, which SDKs would not forget."""
        return b"event: %b\ndata: %b\n\n" % (self.type.encode(), json_text.dumps(self.data))


class ResponseFold:
    """Takes a log's entries in order, from its beginning. One that `is_quiet` counts events and makes none."""

    def __init__(self, head: Head, *, is_quiet: bool = False) -> None:
        self._head = head
        self._is_quiet = is_quiet
        self._number = 0
        self._events: list[Event] = []
        self._status = ""
        self._has_begun = False
        self._error: Json | None = None
        self._incomplete_reason: str | None = None
        self._attempt = -1
        self._clear()

    def _clear(self) -> None:
        self._items: list[Item | Call] = []
        self._open: Item | None = None
        self._calls: dict[int, Call] = {}
        self._pieces: list[Call] = []
        self._repeated_logprobs: list[Json] = []
        self._pending_logprobs: list[Json] = []
        self._usage: Any = None
        self._service_tier: str | None = None

    @property
    def is_over(self) -> bool:
        """The log has ended."""
        return self._status not in _OPEN

    def take(self, entry: Entry) -> list[Event]:
        """The events that follow from the next entry."""
        self._events = []
        if self.is_over:
            return []
        if not self._status:
            self._begin_epoch("queued" if self._head.is_background else "in_progress")
        if entry.value[:1] == _TEXT_CHUNK:  # nearly all are, hence the short way
            self._begin()
            self._add_text(entry.value[1:].decode(), TEXT, self._repeated_logprobs)
        elif entry.is_chunk:
            self._take_chunk(entry)
        else:
            self._take_other(entry)
        return self._events

    def response(self, completed_at: int | None = None) -> Json:
        """The response object as it stands."""
        return self._head.shape(
            self._status or ("queued" if self._head.is_background else "in_progress"),
            [item.shape() for item in self._items],
            error=self._error,
            incomplete_reason=self._incomplete_reason,
            service_tier=self._service_tier,
            usage=response_usage(self._usage),
            completed_at=completed_at if self._status == "completed" else None,
        )

    def _emit(self, type_: str, members: Json) -> None:
        if not self._is_quiet:
            data = {"type": type_, "sequence_number": self._number, **members}
            self._events.append(Event(self._number, type_, data))
        self._number += 1

    def _emit_response(self, type_: str) -> None:
        self._emit(type_, {} if self._is_quiet else {"response": self.response()})

    def _begin_epoch(self, status: str) -> None:
        self._status = status
        self._emit_response("response.created")
        if status == "queued":
            self._emit_response("response.queued")

    def _begin(self) -> None:
        """An attempt is under way."""
        if not self._has_begun:
            self._has_begun = True
            self._status = "in_progress"
            self._emit_response("response.in_progress")

    def _take_other(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.STARTED:
                self._begin()
            case Kind.RESTART:
                self._restart()
            case Kind.DONE:
                self._finish(entry.payload())
            case Kind.ERROR:
                self._error = response_error(entry.payload().get("error") or {})
                self._break_off("failed", "response.failed")
            case Kind.CANCELLED:
                self._break_off("cancelled", "response.incomplete")

    def _restart(self) -> None:
        if self._items:
            self._emit("error", {"code": RESTARTED, "message": _RESTART_MESSAGE, "param": None})
            self._clear()
            self._has_begun = False
            self._begin_epoch("in_progress")
        self._clear()
        self._begin()

    def _take_chunk(self, entry: Entry) -> None:
        self._begin()
        chunk = entry.payload()
        choice = first_choice(chunk) or {}
        logprobs = read_logprobs(choice) if self._head.shows_logprobs else []
        if entry.id.attempt != self._attempt:  # the envelope of the attempt's text chunks
            self._attempt = entry.id.attempt
            self._repeated_logprobs = logprobs
        self._service_tier = known_service_tier(chunk.get("service_tier")) or self._service_tier
        self._usage = chunk.get("usage") or self._usage
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._take_delta(delta, logprobs)

    def _take_delta(self, delta: Json, logprobs: list[Json]) -> None:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        self._add_text(reasoning, SUMMARY if self._head.shows_summaries else REASONING, [])
        self._add_text(delta.get("content"), TEXT, logprobs)
        self._add_text(delta.get("refusal"), REFUSAL, [])
        calls = delta.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                self._take_call(call, position)

    def _add_text(self, text: Any, kind: str, logprobs: list[Json]) -> None:
        if kind == TEXT and (logprobs or self._pending_logprobs):  # tokens without text wait for the next that has some
            logprobs = self._pending_logprobs + logprobs
            self._pending_logprobs = [] if text else logprobs
        if not isinstance(text, str) or not text:
            return
        item, is_reasoning = self._open, kind in (REASONING, SUMMARY)
        if item is None or item.is_reasoning != is_reasoning:
            item = self._open_item(is_reasoning=is_reasoning)
        if not item.parts or item.parts[-1].kind != kind:
            self._open_part(item, kind)
        self._emit(*item.delta(text, logprobs))

    def _open_item(self, *, is_reasoning: bool) -> Item:
        self._close_open("completed")
        index = len(self._items)
        item = Item(index, self._head.item_id("rs" if is_reasoning else "msg", index), is_reasoning)
        self._items.append(item)
        self._open = item
        self._emit("response.output_item.added", {"output_index": index, "item": item.shape()})
        return item

    def _open_part(self, item: Item, kind: str) -> None:
        if item.parts:
            for event in item.part_done():
                self._emit(*event)
        self._emit(*item.part_added(kind))

    def _take_call(self, delta: Json, position: int) -> None:
        """Take a piece of a function call; upstreams give id and name once, or again and again."""
        key = delta.get("index")
        key = key if type(key) is int else position
        id_, function = delta.get("id"), delta.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        call = self._calls.get(key)
        is_named = isinstance(name, str) and name != ""
        # Some upstreams give every call the same index, and some every piece of one call another id.
        if call is None or (is_named and isinstance(id_, str) and call.call_id not in ("", id_)):
            call = self._calls[key] = Call()
            self._pieces.append(call)
        if isinstance(id_, str):
            call.call_id = call.call_id or id_
        arguments = arguments if isinstance(arguments, str) else ""
        if call.index < 0:
            if arguments:
                call.arguments.append(arguments)
            if isinstance(name, str) and name:
                self._place_call(call, name)
        elif arguments:
            call.arguments.append(arguments)
            self._emit(*call.delta(arguments))

    def _place_call(self, call: Call, name: str) -> None:
        """Tell of a call for the first time."""
        self._close_open("completed")
        call.index, call.name = len(self._items), name
        call.id = self._head.item_id("fc", call.index)
        call.call_id = call.call_id or self._head.item_id("call", call.index)
        early, call.arguments = "".join(call.arguments), []
        self._items.append(call)
        self._emit("response.output_item.added", {"output_index": call.index, "item": call.shape()})
        if early:
            call.arguments.append(early)
            self._emit(*call.delta(early))

    def _close_open(self, status: str) -> None:
        if self._open is not None:
            self._close(self._open, status)
            self._open = None

    def _close(self, item: Item | Call, status: str) -> None:
        for event in item.done():
            self._emit(*event)
        item.status = status
        self._emit("response.output_item.done", {"output_index": item.index, "item": item.shape()})

    def _finish(self, end: Json) -> None:
        self._begin()
        self._usage = end.get("usage") or self._usage
        self._incomplete_reason = _INCOMPLETE.get(str(end.get("finish_reason")))
        is_complete = self._incomplete_reason is None
        for call in self._pieces:
            if call.index < 0:
                self._place_call(call, "")  # never named: it shall not pass for an answer without calls
        if not self._items and is_complete:
            self._open_part(self._open_item(is_reasoning=False), TEXT)  # an empty answer is an answer
        for item in self._items:
            if item.status == "in_progress":
                self._close(item, "completed" if is_complete else "incomplete")
        self._status = "completed" if is_complete else "incomplete"
        self._emit_response(f"response.{self._status}")

    def _break_off(self, status: str, type_: str) -> None:
        """End without ending what is open: nobody shall call a function with half of its arguments."""
        for item in self._items:
            if item.status == "in_progress":
                item.status = "incomplete"
        self._status = status
        self._emit_response(type_)
