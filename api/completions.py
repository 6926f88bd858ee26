"""The Chat Completions wire format: two folds over a log, one as a stream of chunks, one as a whole completion.

Pure and deterministic: every replica gives every reader the same. What the upstream's chunks hold passes unchanged, but
for what is ours, and for what the SDKs need where an answer has several attempts: an attempt that *continues* another
goes on under the first one's id, and without a second role, since SDKs concatenate that as well. An attempt that
*restarts* the answer supersedes all before it, which this wire format cannot say: a reader who was sent something of
the superseded answer gets an error instead, and one who was not, or comes later, gets the new one alone.
"""

from typing import Any

from shared import json_text
from shared.cursor import START, EntryId
from shared.events import OURS, ChunkDecoder, Entry, Json, Kind, choices_of, index_of

DONE = b"data: [DONE]\n\n"

_TEXT_CHUNK = Kind.TEXT_CHUNK.value
_HEAD = ("id", "created", "model")
_WHOLE = frozenset({"role", "id", "type"})
"""Strings that say the same again when they are repeated; all others go on where they ended."""

_RESTARTED = {
    "message": "The answer was begun anew after its generation had failed: what you have of it is superseded. "
    "Ask again with the same Idempotency-Key, or read the chat that X-Chat-Id names, to get the new one.",
    "type": "server_error",
    "param": None,
    "code": "generation_restarted",
}
_INTERRUPTED = {
    "message": "The stream was interrupted; the answer is still being generated. Ask again with the same "
    "Idempotency-Key, or read the chat that X-Chat-Id names.",
    "type": "server_error",
    "param": None,
    "code": "stream_interrupted",
}
_CANCELLED = {"message": "The chat was cancelled.", "type": "cancelled", "param": None, "code": "cancelled"}


class CompletionStream:
    """One reader's stream of `chat.completion.chunk` events, as an `api.tail.Encoder`.

    `with_usage`: the client asked for usage, which is otherwise left out. Nothing is shown of what lies up to `since`,
    a restart that the reader came after.
    """

    is_shared = False
    shows_places = False

    def __init__(self, *, with_usage: bool, since: EntryId = START) -> None:
        self.is_over = False
        self._with_usage = with_usage
        self._since = since
        self._decoder = ChunkDecoder()
        self._attempt = -1
        self._head = Json()
        self._named = set[int]()
        self._has_answered = False
        self._templated = -1
        self._before = self._after = b""

    def frame(self, entry: Entry) -> bytes:
        """Encode an entry as an event; empty if it has nothing to show."""
        if self.is_over or entry.id <= self._since:
            return b""
        if entry.value[:1] == _TEXT_CHUNK:
            return self._text_chunk(entry)
        if entry.is_chunk:
            return self._chunk(entry.id.attempt, self._decoder.decode(entry))
        match entry.kind:
            case Kind.DONE:
                self.is_over = True
                return DONE
            case Kind.RESTART if self._has_answered:
                return self._fail(_RESTARTED)
            case Kind.ERROR:
                return self._fail(entry.payload()["error"])
            case Kind.CANCELLED:
                return self._fail(_CANCELLED)
            case _:
                return b""

    def interrupted(self) -> bytes:
        """An error: a stream without `[DONE]` looks complete to some clients."""
        return self._fail(_INTERRUPTED)

    def _fail(self, error: Json) -> bytes:
        self.is_over = True
        return b"data: %b\n\n" % json_text.dumps({"error": error})

    def _text_chunk(self, entry: Entry) -> bytes:
        """Nearly all chunks: within an attempt, their frames differ in their text alone."""
        attempt, text = entry.id.attempt, json_text.dumps(entry.value[1:].decode())
        if attempt == self._templated:
            self._has_answered = self._has_answered or len(entry.value) > 1
            return self._before + text + self._after
        framed = self._chunk(attempt, self._decoder.decode(entry))
        delta = b'"delta":{"content":%b}' % text
        if framed.count(delta) == 1:  # and not inside a string, which would have its quotes escaped
            self._templated = attempt
            before, _, after = framed.partition(delta)
            self._before, self._after = before + b'"delta":{"content":', b"}" + after
        return framed

    def _chunk(self, attempt: int, chunk: Json) -> bytes:
        choices = choices_of(chunk)
        if not self._with_usage and chunk.get("usage") and not choices:
            return b""
        hidden = OURS if self._with_usage else OURS | {"usage"}
        shown = {name: value for name, value in chunk.items() if name not in hidden}
        if self._attempt in (-1, attempt):
            self._attempt = attempt
            if "id" not in self._head:  # some begin with a chunk of their own that has none
                self._head = {name: chunk[name] for name in _HEAD if chunk.get(name)}
        else:
            shown |= self._head
        if choices:
            shown["choices"] = [self._named_once(choice) for choice in choices]
            self._has_answered = self._has_answered or any(map(_says_something, choices))
        return b"data: %b\n\n" % json_text.dumps(shown)

    def _named_once(self, choice: Json) -> Json:
        """The choice, without the role if that was told before."""
        delta = choice.get("delta")
        if not isinstance(delta, dict) or "role" not in delta:
            return choice
        index = index_of(choice)
        if index not in self._named:
            self._named.add(index)
            return choice
        return {**choice, "delta": {name: value for name, value in delta.items() if name != "role"}}


class Completion:
    """A whole `chat.completion`, as an `api.tail.Encoder` that shows nothing: it takes the log to its end.

    Deltas are put together as the SDKs do it: text is concatenated, whatever it is called, lists of numbered objects
    are merged by their `index`, and other lists concatenated.
    """

    is_shared = False
    shows_places = False
    is_over = False

    def __init__(self) -> None:
        self.terminal: Entry | None = None
        self._decoder = ChunkDecoder()
        self._begin()

    def _begin(self) -> None:
        self._members = Json()
        self._choices = dict[int, Json]()
        self._usage: Json | None = None

    def frame(self, entry: Entry) -> bytes:
        """Take an entry."""
        if entry.is_chunk:
            self._take(self._decoder.decode(entry))
        elif entry.kind is Kind.RESTART:
            self._begin()
        elif entry.is_terminal:
            self.terminal = entry
        return b""

    def interrupted(self) -> bytes:
        return b""

    def _take(self, chunk: Json) -> None:
        for name, value in chunk.items():
            if name in OURS or name == "choices":
                continue
            if name == "usage":
                self._usage = value if isinstance(value, dict) else self._usage
            elif not self._members.get(name) or (value is not None and name not in _HEAD):
                self._members[name] = value
        for choice in choices_of(chunk):
            self._take_choice(self._choices.setdefault(index_of(choice), {"delta": {}}), choice)

    @staticmethod
    def _take_choice(known: Json, choice: Json) -> None:
        for name, value in choice.items():
            if name in ("delta", "logprobs") and isinstance(value, dict):
                _merge(_kept(known, name, dict), value)
            elif name != "delta" and (value is not None or name not in known):
                known[name] = value

    def result(self) -> Json:
        """The completion, as far as it was taken."""
        choices = [_whole_choice(index, choice) for index, choice in sorted(self._choices.items())]
        whole = {**self._members, "object": "chat.completion", "choices": choices}
        return whole if self._usage is None else {**whole, "usage": self._usage}


def _says_something(choice: Json) -> bool:
    """Whether there is more in it than a role."""
    delta = choice.get("delta")
    has_content = isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
    return has_content or choice.get("finish_reason") is not None


class _Text(list[str]):
    """The parts of a string; adding them one to the other would take the square of their number."""


class _Items:
    """The objects of a list: those that have a number, and those that do not."""

    def __init__(self) -> None:
        self.numbered = dict[int, Json]()
        self.others = list[Any]()

    def take(self, items: list[Any]) -> None:
        for item in items:
            index = item.get("index") if isinstance(item, dict) else None
            if isinstance(index, int):
                _merge(self.numbered.setdefault(index, {}), item)
            else:
                self.others.append(item)

    def whole(self) -> list[Any]:
        return [_whole(item) for _, item in sorted(self.numbered.items())] + self.others


def _merge(known: Json, delta: Json) -> None:
    """Add what a delta says; strings and lists stay in parts until `_whole`."""
    for name, value in delta.items():
        match value:
            case None:
                known.setdefault(name, None)
            case str() if name not in _WHOLE:
                _kept(known, name, _Text).append(value)
            case dict():
                _merge(_kept(known, name, dict), value)
            case list():
                _kept(known, name, _Items).take(value)
            case _:
                known[name] = value if value != "" else known.get(name, value)


def _kept(known: Json, name: str, kind: type[Any]) -> Any:
    """What is known under this name, if it is of that kind, else something new."""
    if type(known.get(name)) is not kind:
        known[name] = kind()
    return known[name]


def _whole(value: Any) -> Any:
    """Put the parts together."""
    match value:
        case _Text():
            return "".join(value)
        case _Items():
            return value.whole()
        case dict():
            return {name: _whole(member) for name, member in value.items()}
        case _:
            return value


def _whole_choice(index: int, choice: Json) -> Json:
    said = {"role": "assistant", "content": None, "refusal": None} | _whole(choice["delta"])
    if isinstance(said.get("tool_calls"), list):
        said["tool_calls"] = [_whole_call(call) for call in said["tool_calls"]]
    if not said["content"] and (said.get("tool_calls") or said.get("function_call") or said["refusal"]):
        said["content"] = None
    rest = {name: _whole(value) for name, value in choice.items() if name not in ("delta", "index")}
    return {"index": index, "message": said, "logprobs": None, "finish_reason": None} | rest


def _whole_call(call: Any) -> Any:
    """A delta's call has a number; a message's has none, but a type, which some upstreams leave out of the deltas."""
    if not isinstance(call, dict):
        return call
    typed = {**call, "type": "function"} if "function" in call and not call.get("type") else call
    return {name: value for name, value in typed.items() if name != "index"}
