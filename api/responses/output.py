"""The output while it grows: items made of parts, and the events by which they are told."""

from dataclasses import dataclass, field
from typing import Any

from shared.events import Json

TEXT, REFUSAL, REASONING, SUMMARY = "output_text", "refusal", "reasoning_text", "summary_text"

_CONTENT_PART = "response.content_part"
_TOLD_AS = {
    TEXT: ("response.output_text", _CONTENT_PART, "content_index", "text"),
    REFUSAL: ("response.refusal", _CONTENT_PART, "content_index", "refusal"),
    REASONING: ("response.reasoning_text", _CONTENT_PART, "content_index", "text"),
    SUMMARY: ("response.reasoning_summary_text", "response.reasoning_summary_part", "summary_index", "text"),
}
"""The events of each kind of part: of its text, of itself, and what they call its place and its text."""


@dataclass(slots=True)
class Part:
    """One part of an item; `kind` is its type."""

    kind: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def shape(self) -> Json:
        """The part as it stands."""
        if self.kind == TEXT:
            return {"type": TEXT, "text": self.text, "annotations": [], "logprobs": list(self.logprobs)}
        return {"type": self.kind, _TOLD_AS[self.kind][3]: self.text}


@dataclass(slots=True)
class Item:
    """A message or a reasoning; all parts of a reasoning are of one kind."""

    index: int
    id: str
    is_reasoning: bool
    status: str = "in_progress"
    parts: list[Part] = field(default_factory=list)

    def shape(self) -> Json:
        """The item as it stands."""
        parts = [part.shape() for part in self.parts]
        if not self.is_reasoning:
            return {"id": self.id, "type": "message", "status": self.status, "role": "assistant", "content": parts}
        is_summary = bool(parts) and parts[0]["type"] == SUMMARY
        summary, content = (parts, []) if is_summary else ([], parts)
        return {"id": self.id, "type": "reasoning", "status": self.status, "summary": summary, "content": content}

    def delta(self, text: str, logprobs: list[Json]) -> tuple[str, Json]:
        """Take in the next text of the last part; type and members of the event that tells it."""
        part = self.parts[-1]
        part.texts.append(text)
        members = self._place()
        members["delta"] = text
        if part.kind == TEXT:
            part.logprobs += logprobs
            members["logprobs"] = [_brief(logprob) for logprob in logprobs]
        return f"{_TOLD_AS[part.kind][0]}.delta", members

    def part_added(self, kind: str) -> tuple[str, Json]:
        """Begin a part."""
        self.parts.append(Part(kind))
        return f"{_TOLD_AS[kind][1]}.added", {**self._place(), "part": self.parts[-1].shape()}

    def part_done(self) -> list[tuple[str, Json]]:
        """The events that end the last part."""
        part = self.parts[-1]
        of_text, of_part, _, name = _TOLD_AS[part.kind]
        members = {**self._place(), name: part.text}
        if part.kind == TEXT:
            members["logprobs"] = [_brief(logprob) for logprob in part.logprobs]
        return [(f"{of_text}.done", members), (f"{of_part}.done", {**self._place(), "part": part.shape()})]

    def done(self) -> list[tuple[str, Json]]:
        """The events that end the item, before the one that says it whole."""
        return self.part_done() if self.parts else []

    def _place(self) -> Json:
        place = _TOLD_AS[self.parts[-1].kind][2]
        return {"item_id": self.id, "output_index": self.index, place: len(self.parts) - 1}


@dataclass(slots=True)
class Call:
    """A function call; it has no place in the output before its name is known."""

    call_id: str = ""
    name: str = ""
    index: int = -1
    id: str = ""
    status: str = "in_progress"
    arguments: list[str] = field(default_factory=list)

    def shape(self) -> Json:
        """The item as it stands."""
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "".join(self.arguments),
        }

    def delta(self, arguments: str) -> tuple[str, Json]:
        """The event that tells the next piece of the arguments."""
        members = {"item_id": self.id, "output_index": self.index, "delta": arguments}
        return "response.function_call_arguments.delta", members

    def done(self) -> list[tuple[str, Json]]:
        """The events that end the item, before the one that says it whole."""
        place = {"item_id": self.id, "output_index": self.index}
        # The name is what some versions of the types have and others have not.
        members = {**place, "name": self.name, "arguments": "".join(self.arguments)}
        return [("response.function_call_arguments.done", members)]


def read_logprobs(choice: Any) -> list[Json]:
    """The logprobs of a chunk's text, in the shape that an output text has; tolerates any shape."""
    logprobs = choice.get("logprobs") if isinstance(choice, dict) else None
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return (
        [_logprob(token, is_top=False) for token in content if _is_logprob(token)] if isinstance(content, list) else []
    )


def _is_logprob(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("token"), str)
        and isinstance(token.get("logprob"), int | float)
    )


def _logprob(token: Json, *, is_top: bool) -> Json:
    bytes_ = token.get("bytes")
    is_read = isinstance(bytes_, list) and all(type(byte) is int for byte in bytes_)
    read = {"token": token["token"], "bytes": bytes_ if is_read else [], "logprob": token["logprob"]}
    if is_top:
        return read
    top = token.get("top_logprobs")
    tops = [_logprob(each, is_top=True) for each in top if _is_logprob(each)] if isinstance(top, list) else []
    return {**read, "top_logprobs": tops}


def _brief(logprob: Json) -> Json:
    """The shape that events of text have: without bytes."""
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in logprob["top_logprobs"]]
    return {"token": logprob["token"], "logprob": logprob["logprob"], "top_logprobs": tops}
