"""Log entries: their kinds, their compact encoding, and the lossless codec for the upstream's chunks.

An entry's value is one byte that names its kind, then the payload:

    A{}   accepted           S{model, token}   attempt started       R{reason, token}   attempt restarted
    D{finish_reason, usage}  done              E{error}   failed     X{}   cancelled

An E may also have the upstream's HTTP `status` and the seconds of its `retry_after`. The two that begin an attempt are
written by the claim script in `shared.log`.

The upstream repeats the same envelope (id, model, created, …) in every chunk, so an attempt's first chunk is stored
whole and lends its envelope to the later ones:

    c<json>   the chunk as it came; the first one of an attempt is its envelope
    d<json>   the members in which the chunk differs from the envelope
    t<utf-8>  the envelope, whose only choice is the first, with its delta replaced by `{"content": <utf-8>}`

All three say what the first choice's delta is without looking at another entry, so that a reader can start anywhere;
only `ChunkDecoder`, which gives back the upstream's chunks, needs an attempt from its beginning. The first choice is
the one of index 0: with `n` > 1, chunks of several choices follow one another in any order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from shared import json_text
from shared.cursor import EntryId

Json = dict[str, Any]

ANSWER_ID = "upstream_response_id"
"""The member of a chunk that says what the upstream calls the answer, if it can go on with it."""

SEQUENCE_NUMBER = "upstream_sequence_number"
OUTPUT_INDEX = "upstream_output_index"
"""What a chunk says beside that, for whoever goes on: see `worker.responses_events`."""

OURS = frozenset({ANSWER_ID, SEQUENCE_NUMBER, OUTPUT_INDEX})
"""The members of a chunk that no client is shown."""


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
        """The first choice's delta; None for a chunk without it (usage alone, or another choice's)."""
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


def error(
    message: str,
    type_: str,
    code: str | None,
    param: str | None = None,
    *,
    status: int | None = None,
    retry_after: float | None = None,
) -> bytes:
    """Encode the terminal entry of a failed chat; the first four are OpenAI's error envelope.

    `status` is the HTTP status with which the upstream refused, and `retry_after` the seconds that it asked for.
    """
    body: Json = {"error": {"message": message, "type": type_, "param": param, "code": code}}
    if status is not None:
        body["status"] = status
    if retry_after is not None:
        body["retry_after"] = retry_after
    return Kind.ERROR.value + json_text.dumps(body)


def cancelled() -> bytes:
    """Encode the terminal entry of a cancelled chat."""
    return Kind.CANCELLED.value + b"{}"


def choices_of(chunk: Json) -> list[Json]:
    """A chunk's choices, those that are objects; tolerates any shape."""
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def index_of(choice: Json) -> int:
    """Which of the `n` answers a choice belongs to: the first, unless it says otherwise."""
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def first_choice(chunk: Json) -> Json | None:
    """A chunk's choice of index 0, or None when it has none; tolerates any shape."""
    return next((choice for choice in choices_of(chunk) if index_of(choice) == 0), None)


def first_delta(chunk: Json) -> Json | None:
    """The first choice's delta of a chunk, or None when it has none; tolerates any shape."""
    delta = (first_choice(chunk) or {}).get("delta")
    return delta if isinstance(delta, dict) else None


class ChunkEncoder:
    """Encodes one attempt's chunks in order; `ChunkDecoder` is its inverse."""

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
    """The only choice of a chunk, if it has exactly one, and that is the first answer's and has a delta."""
    choices = chunk.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and first_delta(chunk) is not None:
        choice: Json = choices[0]
        return choice
    return None


class ChunkDecoder:
    """Gives back the upstream's chunks, one by one, of one attempt after the other, each from its beginning."""

    def __init__(self) -> None:
        self._attempt = -1
        self._envelope = Json()

    def decode(self, entry: Entry) -> Json:
        """The chunk that the entry stands for; the result must not be changed."""
        if entry.id.attempt != self._attempt:
            self._attempt, self._envelope = entry.id.attempt, entry.payload()
            return self._envelope
        match entry.kind:
            case Kind.TEXT_CHUNK:
                choice = {**self._envelope["choices"][0], "delta": entry.delta()}
                return {**self._envelope, "choices": [choice]}
            case Kind.PARTIAL_CHUNK:
                return {**self._envelope, **entry.payload()}
            case _:
                return entry.payload()


def restore_chunks(entries: Iterable[Entry]) -> Iterator[Json]:
    """Give back every upstream chunk in `entries`; each attempt in it must be there from its beginning."""
    decoder = ChunkDecoder()
    return (decoder.decode(entry) for entry in entries if entry.is_chunk)


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
