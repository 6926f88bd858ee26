"""A response of the Responses API as it comes into being: its events in order, and what it looks like at any moment.

No clock in here. Order and shape are those of the types in `openai.types.responses`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from simulator.chunks import count_deltas
from simulator.reply import Choice
from simulator.script import ErrorFault, ToolCall
from simulator.tokens import tokenise

Json = dict[str, Any]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Moment(NamedTuple):
    """One event, and how many deltas (0 or 1) it is in the script's terms."""

    event: Json
    deltas: int = 0


class Draft:
    """A response and the events that bring it about. `response` is what it looks like after the event given last."""

    def __init__(
        self,
        response: Json,
        choice: Choice,
        *,
        input_tokens: int,
        call_ids: Sequence[str],
        has_summary: bool,
        has_logprobs: bool,
    ) -> None:
        self.response = response | {"status": "queued", "output": [], "error": None, "incomplete_details": None}
        self._suffix = str(response["id"]).removeprefix("resp_")
        self._choice = choice
        self._input_tokens = input_tokens
        self._call_ids = call_ids
        self._has_summary = has_summary
        self._has_logprobs = has_logprobs
        self._number = 0

    def moments(self, error: ErrorFault | None = None) -> Iterator[Moment]:
        """Every event to the end; with `error`, the response fails after so many deltas."""
        yield self._moment("response.created", response=self._snapshot())
        yield self._moment("response.queued", response=self._snapshot())
        self.response["status"] = "in_progress"
        yield self._moment("response.in_progress", response=self._snapshot())
        deltas = 0
        for moment in self._output():
            if error is not None and moment.deltas and deltas == error.after:
                self._number = moment.event["sequence_number"]  # in its place
                yield self._fail(error)
                return
            deltas += moment.deltas
            yield moment
        yield self._fail(error) if error is not None else self._finish()

    def cancel(self) -> None:
        """Make it a cancelled response; there is no event that would say so."""
        if self.response["status"] in ("queued", "in_progress"):
            self.response["status"] = "cancelled"

    @property
    def is_over(self) -> bool:
        return self.response["status"] not in ("queued", "in_progress")

    def _moment(self, kind: str, deltas: int = 0, **members: Any) -> Moment:
        # A replaced output or status must not change an event that was given already; the shapes below are fresh.
        event = {"type": kind, "sequence_number": self._number, **members}
        self._number += 1
        return Moment(event, deltas)

    def _snapshot(self) -> Json:
        return {**self.response, "output": list(self.response["output"])}

    def _output(self) -> Iterator[Moment]:
        choice = self._choice
        if choice.reasoning:
            yield from self._reason(choice.reasoning)
        if choice.content or choice.refusal or not (choice.reasoning or choice.tool_calls):
            yield from self._say(choice)
        for call, call_id in zip(choice.tool_calls, self._call_ids, strict=True):
            yield from self._call(call, call_id)

    def _reason(self, pieces: Sequence[str]) -> Iterator[Moment]:
        item: Json = {"id": f"rs_{self._suffix}", "type": "reasoning", "summary": [], "status": "in_progress"}
        index = self._begin()
        yield self._added(index, item)
        at = {"item_id": item["id"], "output_index": index}
        text = "".join(pieces)
        if self._has_summary:
            at |= {"summary_index": 0}
            part = {"type": "summary_text", "text": ""}
            yield self._moment("response.reasoning_summary_part.added", **at, part=part)
            for piece in pieces:
                yield self._moment("response.reasoning_summary_text.delta", 1, **at, delta=piece)
            yield self._moment("response.reasoning_summary_text.done", **at, text=text)
            part = {"type": "summary_text", "text": text}
            yield self._moment("response.reasoning_summary_part.done", **at, part=part)
            item |= {"summary": [part]}
        else:
            at |= {"content_index": 0}
            part = {"type": "reasoning_text", "text": ""}
            yield self._moment("response.content_part.added", **at, part=part)
            for piece in pieces:
                yield self._moment("response.reasoning_text.delta", 1, **at, delta=piece)
            yield self._moment("response.reasoning_text.done", **at, text=text)
            part = {"type": "reasoning_text", "text": text}
            yield self._moment("response.content_part.done", **at, part=part)
            item |= {"content": [part]}
        yield self._done(index, item)

    def _say(self, choice: Choice) -> Iterator[Moment]:
        item: Json = {
            "id": f"msg_{self._suffix}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "status": "in_progress",
        }
        index = self._begin()
        yield self._added(index, item)
        parts: list[Json] = []
        if choice.content or not choice.refusal:
            at = {"item_id": item["id"], "output_index": index, "content_index": len(parts)}
            yield self._moment("response.content_part.added", **at, part=_text_part("", []))
            for piece in choice.content:
                logprobs = self._logprobs(piece)
                yield self._moment("response.output_text.delta", 1, **at, delta=piece, logprobs=logprobs)
            text = "".join(choice.content)
            every = [entry for piece in choice.content for entry in self._logprobs(piece)]
            yield self._moment("response.output_text.done", **at, text=text, logprobs=every)
            parts.append(_text_part(text, every))
            yield self._moment("response.content_part.done", **at, part=parts[-1])
        if choice.refusal:
            at = {"item_id": item["id"], "output_index": index, "content_index": len(parts)}
            yield self._moment("response.content_part.added", **at, part={"type": "refusal", "refusal": ""})
            for piece in choice.refusal:
                yield self._moment("response.refusal.delta", 1, **at, delta=piece)
            refusal = "".join(choice.refusal)
            yield self._moment("response.refusal.done", **at, refusal=refusal)
            parts.append({"type": "refusal", "refusal": refusal})
            yield self._moment("response.content_part.done", **at, part=parts[-1])
        yield self._done(index, item | {"content": parts})

    def _call(self, call: ToolCall, call_id: str) -> Iterator[Moment]:
        index = self._begin()
        item: Json = {
            "id": f"fc_{self._suffix}{index:02x}",
            "type": "function_call",
            "call_id": call_id,
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        yield self._added(index, item, deltas=1)
        at = {"item_id": item["id"], "output_index": index}
        for piece in tokenise(call.arguments_json):
            yield self._moment("response.function_call_arguments.delta", 1, **at, delta=piece)
        done: Json = {"name": call.name, "arguments": call.arguments_json}
        yield self._moment("response.function_call_arguments.done", **at, **done)
        yield self._done(index, item | done)

    def _begin(self) -> int:
        return len(self.response["output"])

    def _added(self, index: int, item: Json, deltas: int = 0) -> Moment:
        self.response["output"].append(item)
        return self._moment("response.output_item.added", deltas, output_index=index, item=dict(item))

    def _done(self, index: int, item: Json) -> Moment:
        item = item | {"status": "completed"}
        self.response["output"][index] = item
        return self._moment("response.output_item.done", output_index=index, item=item)

    def _finish(self) -> Moment:
        reason = _INCOMPLETE.get(self._choice.finish_reason)
        self.response["usage"] = self._usage()
        if reason is not None:
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
            return self._moment("response.incomplete", response=self._snapshot())
        self.response["status"] = "completed"
        return self._moment("response.completed", response=self._snapshot())

    def _fail(self, fault: ErrorFault) -> Moment:
        self.response["status"] = "failed"
        self.response["error"] = {"code": fault.code or "server_error", "message": fault.message}
        return self._moment("response.failed", response=self._snapshot())

    def _usage(self) -> Json:
        generated = count_deltas(self._choice)
        return {
            "input_tokens": self._input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": len(self._choice.reasoning)},
            "total_tokens": self._input_tokens + generated,
        }

    def _logprobs(self, token: str) -> list[Json]:
        if not self._has_logprobs or not token:
            return []
        return [{"token": token, "logprob": -len(token) / 16, "bytes": list(token.encode()), "top_logprobs": []}]


def _text_part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
