"""The output while it grows: items made of parts, and the events by which they are told."""

from dataclasses import dataclass, field
from typing import Any

from shared.events import Json

TEXT, REFUSAL, REASONING = "output_text", "refusal", "reasoning_text"

_DELTA = {
    TEXT: "response.output_text.delta",
    REFUSAL: "response.refusal.delta",
    REASONING: "response.reasoning_text.delta",
}
_DONE = {TEXT: "response.output_text.done", REFUSAL: "response.refusal.done", REASONING: "response.reasoning_text.done"}


@dataclass(slots=True)
class Part:
    """One part of an item's content; `kind` is its type."""

    kind: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def shape(self) -> Json:
        """The part as it stands."""
        if self.kind == TEXT:
            return {"type": TEXT, "text": self.text, "annotations": [], "logprobs": self.logprobs}
        return {"type": self.kind, "refusal" if self.kind == REFUSAL else "text": self.text}


@dataclass(slots=True)
class Item:
    """A message or a reasoning; `prefix` is that of its id."""

    index: int
    id: str
    is_reasoning: bool
    status: str = "in_progress"
    parts: list[Part] = field(default_factory=list)

    def shape(self) -> Json:
        """The item as it stands."""
        parts = [part.shape() for part in self.parts]
        if self.is_reasoning:
            return {"id": self.id, "type": "reasoning", "status": self.status, "summary": [], "content": parts}
        return {"id": self.id, "type": "message", "status": self.status, "role": "assistant", "content": parts}

    def delta(self, text: str, logprobs: list[Json]) -> tuple[str, Json]:
        """Take in the next text of the last part; type and members of the event that tells it."""
        part = self.parts[-1]
        part.texts.append(text)
        members = self._place()
        members["delta"] = text
        if part.kind == TEXT:
            part.logprobs += logprobs
            members["logprobs"] = [_brief(logprob) for logprob in logprobs]
        return _DELTA[part.kind], members

    def part_added(self, kind: str) -> tuple[str, Json]:
        """Begin a part."""
        self.parts.append(Part(kind))
        return "response.content_part.added", {**self._place(), "part": self.parts[-1].shape()}

    def part_done(self) -> list[tuple[str, Json]]:
        """The events that end the last part."""
        part = self.parts[-1]
        members = {**self._place(), "refusal" if part.kind == REFUSAL else "text": part.text}
        if part.kind == TEXT:
            members["logprobs"] = [_brief(logprob) for logprob in part.logprobs]
        return [
            (_DONE[part.kind], members),
            ("response.content_part.done", {**self._place(), "part": part.shape()}),
        ]

    def done(self) -> list[tuple[str, Json]]:
        """The events that end the item, before the one that says it whole."""
        return self.part_done() if self.parts else []

    def _place(self) -> Json:
        return {"item_id": self.id, "output_index": self.index, "content_index": len(self.parts) - 1}


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
    read = {"token": token["token"], "bytes": token.get("bytes") or [], "logprob": token["logprob"]}
    if is_top:
        return read
    top = token.get("top_logprobs")
    tops = [_logprob(each, is_top=True) for each in top if _is_logprob(each)] if isinstance(top, list) else []
    return {**read, "top_logprobs": tops}


def _brief(logprob: Json) -> Json:
    """The shape that events of text have: without bytes."""
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in logprob["top_logprobs"]]
    return {"token": logprob["token"], "logprob": logprob["logprob"], "top_logprobs": tops}
