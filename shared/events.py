"""Log entries: their kinds, their compact encoding, and the lossless codec for the upstream's chunks.

An entry's value is one byte that names its kind, then the payload:

    A{}   accepted           S{model, token}   attempt started       R{reason, token}   attempt restarted
    D{finish_reason, usage}  done              E{error}   failed     X{}   cancelled

The two that begin an attempt are written by the claim script in `shared.log`.

The upstream repeats the same envelope (id, model, created, …) in every chunk, so an attempt's first chunk is stored
whole and lends its envelope to the later ones:

    c<json>   the chunk as it came; the first one of an attempt is its envelope
    d<json>   the members in which the chunk differs from the envelope
    t<utf-8>  the envelope, with `choices[0].delta` replaced by `{"content": <utf-8>}`

All three say what `choices[0].delta` is without looking at another entry, so that a reader can start anywhere; only
`restore_chunks`, which gives back the upstream's chunks, needs an attempt from its beginning.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from shared import json_text
from shared.cursor import EntryId

Json = dict[str, Any]


class Kind(bytes, Enum):
    """The first byte of an entry's value."""

    ACCEPTED = b"A"
    STARTED = b"S"
    RESTART = b"R"
    CHUNK = b"c"
    PARTIAL_CHUNK = b"d"
    TEXT_CHUNK = b"t"
    DONE = b"D"
    ERROR = b"E"
    CANCELLED = b"X"


CHUNK_KINDS = frozenset({Kind.CHUNK.value, Kind.PARTIAL_CHUNK.value, Kind.TEXT_CHUNK.value})
TERMINAL_KINDS = frozenset({Kind.DONE.value, Kind.ERROR.value, Kind.CANCELLED.value})


class Entry(NamedTuple):
    """One record of a log: its id and its encoded value."""

    id: EntryId
    value: bytes

    @property
    def kind(self) -> Kind:
        return Kind(self.value[:1])

    @property
    def is_chunk(self) -> bool:
        return self.value[:1] in CHUNK_KINDS

    @property
    def is_terminal(self) -> bool:
        return self.value[:1] in TERMINAL_KINDS

    def payload(self) -> Json:
        """The JSON object of any kind but a text chunk."""
        payload: Json = json_text.loads(self.value[1:])
        return payload

    def delta(self) -> Json | None:
        """The upstream's `choices[0].delta`; None for a chunk without choices (usage alone)."""
        if self.value[:1] == Kind.TEXT_CHUNK.value:
            return {"content": self.value[1:].decode()}
        return first_delta(self.payload())

    def text(self) -> str:
        """The delta's text; empty when it has none."""
        if self.value[:1] == Kind.TEXT_CHUNK.value:
            return self.value[1:].decode()
        content = (first_delta(self.payload()) or {}).get("content")
        return content if isinstance(content, str) else ""


def accepted() -> bytes:
    """Encode the entry that opens a log."""
    return Kind.ACCEPTED.value + b"{}"


def done(finish_reason: str, usage: Json | None) -> bytes:
    """Encode the terminal entry of a complete answer."""
    return Kind.DONE.value + json_text.dumps({"finish_reason": finish_reason, "usage": usage})


def error(message: str, type_: str, code: str | None, param: str | None = None) -> bytes:
    """Encode the terminal entry of a failed chat; the four are OpenAI's error envelope."""
    body = {"message": message, "type": type_, "param": param, "code": code}
    return Kind.ERROR.value + json_text.dumps({"error": body})


def cancelled() -> bytes:
    """Encode the terminal entry of a cancelled chat."""
    return Kind.CANCELLED.value + b"{}"


def first_choice(chunk: Json) -> Json | None:
    """The first of a chunk's choices, or None when it has none; tolerates any shape."""
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return None


def first_delta(chunk: Json) -> Json | None:
    """`choices[0].delta` of a chunk, or None when it has none; tolerates any shape."""
    delta = (first_choice(chunk) or {}).get("delta")
    return delta if isinstance(delta, dict) else None


class ChunkEncoder:
    """Encodes one attempt's chunks in order; `restore_chunks` is its inverse."""

    def __init__(self) -> None:
        self._envelope: Json | None = None
        self._choice: Json | None = None

    def encode(self, chunk: Json) -> bytes:
        """Encode the attempt's next chunk, whatever members it has."""
        if self._envelope is None:
            self._envelope = chunk
            self._choice = _plain_choice(chunk)
            return Kind.CHUNK.value + json_text.dumps(chunk)
        text = self._bare_text(chunk)
        if text is not None:
            return text
        if chunk.keys() >= self._envelope.keys():
            differing = {name: value for name, value in chunk.items() if not self._has(name, value)}
            return Kind.PARTIAL_CHUNK.value + json_text.dumps(differing)
        return Kind.CHUNK.value + json_text.dumps(chunk)

    def _has(self, name: str, value: Any) -> bool:
        assert self._envelope is not None
        return name != "choices" and name in self._envelope and _is_same(self._envelope[name], value)

    def _bare_text(self, chunk: Json) -> bytes | None:
        """The text form, if the chunk is the envelope with nothing but another text in it."""
        choice, envelope = _plain_choice(chunk), self._envelope
        if choice is None or self._choice is None or envelope is None or chunk.keys() != envelope.keys():
            return None
        delta: Json = choice["delta"]
        if len(delta) != 1 or not isinstance(delta.get("content"), str) or choice.keys() != self._choice.keys():
            return None
        if not all(name == "delta" or _is_same(self._choice[name], value) for name, value in choice.items()):
            return None
        if not all(name == "choices" or self._has(name, value) for name, value in chunk.items()):
            return None
        try:
            return Kind.TEXT_CHUNK.value + str(delta["content"]).encode()
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8
            return None


def _is_same(a: Any, b: Any) -> bool:
    """Equal as JSON: Python takes `1`, `1.0` and `True` for the same, JSON does not."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (dict, list)):
        return json_text.dumps(a) == json_text.dumps(b)
    return bool(a == b)


def _plain_choice(chunk: Json) -> Json | None:
    """The only choice of a chunk, if it has exactly one and that one has a delta."""
    choices = chunk.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and first_delta(chunk) is not None:
        choice: Json = choices[0]
        return choice
    return None


def restore_chunks(entries: Iterable[Entry]) -> Iterator[Json]:
    """Give back every upstream chunk in `entries`; each attempt in it must be there from its beginning."""
    attempt, envelope = -1, Json()
    for entry in entries:
        if not entry.is_chunk:
            continue
        if entry.id.attempt != attempt:
            attempt, envelope = entry.id.attempt, entry.payload()
            yield envelope
        elif entry.kind is Kind.TEXT_CHUNK:
            choice = {**envelope["choices"][0], "delta": entry.delta()}
            yield {**envelope, "choices": [choice]}
        elif entry.kind is Kind.PARTIAL_CHUNK:
            yield {**envelope, **entry.payload()}
        else:
            yield entry.payload()


@dataclass(slots=True)
class Transcript:
    """What a log says so far: a fold over its entries, in order, from the beginning."""

    text: str = ""
    terminal: Entry | None = None
    top: EntryId | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Transcript":
        """Fold `entries`; a restart drops the text before it, a `started` continues it."""
        transcript, parts = cls(), list[str]()
        for entry in entries:
            transcript.top = entry.id
            if entry.is_chunk:
                parts.append(entry.text())
            elif entry.kind is Kind.RESTART:
                parts.clear()
            elif entry.is_terminal:
                transcript.terminal = entry
        transcript.text = "".join(parts)
        return transcript
