"""The native wire format: log entries to Server-Sent Events (WHATWG HTML, 9.2). A pure fold, entry by entry."""

import re
from enum import StrEnum
from typing import NamedTuple

from shared import json_text
from shared.cursor import Cursor
from shared.events import Entry, Kind

KEEP_ALIVE = b": keep-alive\n"
"""A comment without a blank line after it: a blank line makes some SDKs dispatch an empty event."""

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_BYTES_LINE_BREAK = re.compile(rb"\r\n|\r|\n")
_TEXT_CHUNK = Kind.TEXT_CHUNK.value
_TEXT_MARK = _TEXT_CHUNK[0]
_LF, _CR = b"\n\r"
"""As numbers: for a byte among bytes Python looks much faster than for a sequence of one."""


class Format(StrEnum):
    """How an event's data looks: plain text to read along, or JSON that loses nothing."""

    TEXT = "text"
    JSON = "json"


_TEXT = Format.TEXT


class _Native(NamedTuple):
    """A tuple, since those of equal value have to be found fast."""

    chat_id: str
    format_: Format


class NativeEncoder(_Native):
    """The native format as an `api.tail.Encoder`."""

    __slots__ = ()

    is_shared = True
    is_over = False

    @property
    def shows_places(self) -> bool:
        return self.format_ is Format.JSON

    def frame(self, entry: Entry) -> bytes:
        (attempt, seq), value = entry
        # Nearly all are bare text in one line, and thousands of them are replayed at once: hence the short way.
        if value[0] == _TEXT_MARK and self[1] is _TEXT and (text := value[1:]) and _LF not in text and _CR not in text:
            return f"id: {self[0]}:{attempt}-{seq}\ndata: ".encode() + text + b"\n\n"
        return frame(self.chat_id, entry, self.format_)

    def interrupted(self) -> bytes:
        """Nothing: a stream without a terminal event was cut, and is resumed."""
        return b""


def stream_headers(chat_id: str) -> dict[str, str]:
    """The headers of a native stream."""
    return {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "X-Chat-Id": chat_id,
        "Content-Location": f"/v1/chats/{chat_id}/stream",
    }


def frame(chat_id: str, entry: Entry, format_: Format) -> bytes:
    """Encode one entry as an event; empty if this format has none for it."""
    if entry.value[:1] == _TEXT_CHUNK:
        return _text_frame(chat_id, entry, format_)
    event = _text_event(entry) if format_ is Format.TEXT else _json_event(entry)
    if event is None:
        return b""
    name, data = event
    lines = [f"event: {name}"] if name else []
    lines.append(f"id: {Cursor(chat_id, entry.id)}")
    lines += [f"data: {line}" for line in _LINE_BREAK.split(data)]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def _text_frame(chat_id: str, entry: Entry, format_: Format) -> bytes:
    (attempt, seq), value = entry
    text = value[1:]
    if format_ is Format.JSON:
        delta = json_text.dumps({"content": text.decode()})
        return b"event: delta\nid: %b:%d-%d\ndata: %b\n\n" % (chat_id.encode(), attempt, seq, delta)
    if not text:
        return b""
    if _LF in text or _CR in text:
        text = b"\ndata: ".join(_BYTES_LINE_BREAK.split(text))
    return f"id: {chat_id}:{attempt}-{seq}\ndata: ".encode() + text + b"\n\n"


def queued_frame(position: int) -> bytes:
    """Tell a JSON reader its chat's place in the queue; not an entry, so it has no id."""
    return b'event: queued\ndata: {"position":%d}\n\n' % position


def _text_event(entry: Entry) -> tuple[str, str] | None:
    if entry.is_chunk:
        text = entry.text()
        return ("", text) if text else None
    match entry.kind:
        case Kind.RESTART:
            return "restart", ""
        case Kind.DONE:
            return "done", "[DONE]"
        case Kind.ERROR:
            return "error", _json({"error": entry.payload()["error"]})
        case Kind.CANCELLED:
            return "cancelled", "[CANCELLED]"
        case _:
            return None


def _json_event(entry: Entry) -> tuple[str, str] | None:
    if entry.is_chunk:
        delta = entry.delta()
        return ("delta", _json(delta)) if delta is not None else None
    match entry.kind:
        case Kind.STARTED:
            return "started", _json({"attempt": entry.id.attempt, "model": entry.payload()["model"]})
        case Kind.RESTART:
            return "restart", _json({"attempt": entry.id.attempt, "reason": entry.payload()["reason"]})
        case Kind.DONE:
            return "done", _json(entry.payload())
        case Kind.ERROR:
            return "error", _json({"error": entry.payload()["error"]})
        case Kind.CANCELLED:
            return "cancelled", "{}"
        case _:
            return None


def _json(value: object) -> str:
    return json_text.dumps(value).decode()
