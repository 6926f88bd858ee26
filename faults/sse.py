"""Server-Sent Events as the HTML standard has clients read them (WHATWG HTML, 9.2.6); the campaign's own reading."""

import re
from dataclasses import dataclass
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Event(NamedTuple):
    """One event; `id` is what its own lines say, None if they say nothing."""

    id: str | None
    name: str
    data: str


@dataclass
class Parser:
    """Takes the bytes of one connection, split anywhere; what was not ended by an empty line was never there."""

    _rest: bytes = b""
    _id: str | None = None
    _name: str = ""
    _data: list[str] | None = None

    def feed(self, received: bytes) -> list[Event]:
        """The events that these bytes complete."""
        buffer = self._rest + received
        # A last CR may be half of a CRLF.
        end = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
        *lines, rest = _LINE_END.split(buffer[:end])
        self._rest = rest + buffer[end:]
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: bytes) -> Event | None:
        if line:
            field, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                self._data = [*(self._data or []), value]
            elif field == "event":
                self._name = value
            elif field == "id":
                self._id = value
            return None
        event = Event(self._id, self._name, "\n".join(self._data)) if self._data is not None else None
        self._id, self._name, self._data = None, "", None
        return event
