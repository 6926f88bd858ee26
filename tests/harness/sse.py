"""An SSE parser of the tests' own, strict about Piropiro's wire format, beside httpx-sse as an oracle for decoding."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
from httpx_sse import EventSource

TERMINAL_NAMES = ("done", "error", "cancelled")
_ORDER = ("event", "id", "data")


@dataclass(frozen=True)
class Event:
    """One event, with the exact bytes of its lines and the empty line after them."""

    raw: bytes
    name: str
    id: str | None
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def is_terminal(self) -> bool:
        return self.name in TERMINAL_NAMES


@dataclass
class EventParser:
    """Takes bytes split anywhere; asserts that every line has the form the contract gives it."""

    events: list[Event] = field(default_factory=list)
    comments: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    _lines: list[bytes] = field(default_factory=list)

    def feed(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b":"):
                assert not self._lines, f"a comment within an event: {line!r}"
                self.comments.append(line)
            elif line:
                self._lines.append(line)
            else:
                self.events.append(_parse(self._lines))
                self._lines = []


def parse(data: bytes) -> list[Event]:
    """The complete events in `data`."""
    parser = EventParser()
    parser.feed(data)
    return parser.events


def _parse(lines: list[bytes]) -> Event:
    assert lines, "an empty line that ends no event"
    values: dict[str, list[str]] = {name: [] for name in _ORDER}
    seen = []
    for line in lines:
        assert b"\r" not in line, f"a CR ends a line early: {line!r}"
        name, separator, value = line.decode().partition(": ")
        assert separator, f"no space after the colon: {line!r}"
        assert name in _ORDER, f"no field of ours: {line!r}"
        seen.append(name)
        values[name].append(value)
    assert seen == sorted(seen, key=_ORDER.index), f"fields out of order: {lines!r}"
    assert len(values["event"]) <= 1
    assert len(values["id"]) <= 1
    assert values["data"], f"an event without data: {lines!r}"
    return Event(
        raw=b"\n".join(lines) + b"\n\n",
        name="".join(values["event"]),
        id=values["id"][0] if values["id"] else None,
        data="\n".join(values["data"]),
    )


def raw_of(events: Iterable[Event]) -> bytes:
    return b"".join(event.raw for event in events)


def text_of(events: Iterable[Event]) -> str:
    """The answer as a reader of the text format has it in the end."""
    text = ""
    for event in events:
        if event.name == "restart":
            text = ""
        elif not event.name:
            text += event.data
    return text


def json_text_of(events: Iterable[Event]) -> str:
    """The answer as a reader of the JSON format has it in the end."""
    text = ""
    for event in events:
        if event.name == "restart":
            text = ""
        elif event.name == "delta":
            text += event.json.get("content") or ""
    return text


def decode_by_oracle(data: bytes) -> list[tuple[str, str]]:
    """Name and data of each event, as httpx-sse sees them."""
    response = httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=data)
    return [(event.event, event.data) for event in EventSource(response).iter_sse()]


def decoded(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Name and data of each event, the way `decode_by_oracle` gives them."""
    return [(event.name or "message", event.data) for event in events]
