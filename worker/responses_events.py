"""The events of a response as chunks of a chat completion. Pure.

Each event becomes no chunk, one, or at its end two. A chunk has two further members: `upstream_response_id`, and
`upstream_sequence_number`, the event up to which everything is in the chunks so far, this one included. So whoever
stored some of the chunks can have the rest: by the events that follow the last number, translated by a `Translator`
that was given the chunks stored. (The chunk that begins a tool call also has `upstream_output_index`: the events of its
arguments do not say which call of how many it is.)

The shapes are those of `openai.types.responses` and of `openai.types.chat.ChatCompletionChunk`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.events import ANSWER_ID, OUTPUT_INDEX, SEQUENCE_NUMBER

Json = dict[str, Any]

_BEGINNINGS = ("response.created", "response.queued", "response.in_progress")
_FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_TRANSIENT = ("server_error", "rate_limit_exceeded", "vector_store_timeout")


class Failed(Exception):
    """Nothing more will come of the response; `body` is the upstream's own error object.

    `is_final`: another would fare the same. `has_ended`: it is generated no longer.
    """

    def __init__(self, body: Json, *, is_final: bool, has_ended: bool = True) -> None:
        super().__init__(body.get("message"))
        self.body = body
        self.is_final = is_final
        self.has_ended = has_ended


class Malformed(Exception):
    """This is no event."""


@dataclass(slots=True)
class Translator:
    """Translates one response's events, in order."""

    response_id: str | None = None
    seen: int = -1
    """The number of the last event that is dealt with; -1 before the first."""

    created: int = 0
    model: str = ""
    finish_reason: str | None = None
    has_usage: bool = False
    calls: dict[int, int] = field(default_factory=dict)
    """By output index, which tool call it is."""

    has_role: bool = False
    said: Counter[str] = field(default_factory=Counter)
    """How many characters of each member of the message are in the chunks."""

    arguments: Counter[int] = field(default_factory=Counter)
    """The same of each tool call's arguments."""

    @classmethod
    def after(cls, response_id: str, chunks: Iterable[Mapping[str, Any]]) -> "Translator":
        """One that goes on after `chunks`, which are all that there is of the response."""
        translator = cls(response_id)
        for chunk in chunks:
            translator._note(chunk)
        return translator

    @property
    def is_over(self) -> bool:
        """Whether all of the answer is in the chunks."""
        return self.finish_reason is not None and self.has_usage

    def _note(self, chunk: Mapping[str, Any]) -> None:
        self.created, self.model = chunk.get("created", 0), chunk.get("model", "")
        self.seen = chunk[SEQUENCE_NUMBER]
        self.has_role = True
        self.has_usage |= "usage" in chunk
        for choice in chunk["choices"]:
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    self.arguments.update({call["index"]: len(call["function"]["arguments"]) for call in value})
                elif isinstance(value, str):
                    self.said[name] += len(value)
        if OUTPUT_INDEX in chunk:
            self.calls[chunk[OUTPUT_INDEX]] = len(self.calls)

    def translate(self, event: Json) -> list[Json]:
        """The chunks of the next event; none of one that came already, from a server that sends everything anew.

        Raises:
            Failed: the response has.
            Malformed: it lacks what such an event has.
        """
        try:
            number = int(event.get("sequence_number", self.seen + 1))
            if number <= self.seen and event["type"] != "error":
                return []
            self.seen = number
            delta = self._delta(event)
            return self._translate(event) if delta is None else [self._chunk(delta, _logprobs(event.get("logprobs")))]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Malformed from error

    def _delta(self, event: Json) -> Json | None:
        """What an event adds to the message, if it does nothing else."""
        match event["type"]:
            case "response.output_text.delta":
                return {"content": event["delta"]}
            case "response.refusal.delta":
                return {"refusal": event["delta"]}
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                return {"reasoning_content": event["delta"]}
            case "response.reasoning_summary_part.added" if event["summary_index"] > 0:
                return {"reasoning_content": "\n\n"}
            case "response.function_call_arguments.delta":
                call = self.calls[event["output_index"]]
                return {"tool_calls": [{"index": call, "function": {"arguments": event["delta"]}}]}
            case "response.output_text.annotation.added" if event["annotation"].get("type") == "url_citation":
                citation = {name: value for name, value in event["annotation"].items() if name != "type"}
                return {"annotations": [{"type": "url_citation", "url_citation": citation}]}
            case _:
                return None

    def _translate(self, event: Json) -> list[Json]:
        match event["type"]:
            case "response.created" | "response.queued" | "response.in_progress":
                return self._begin(event["response"])
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                return [self._begin_call(event["output_index"], event["item"])]
            case "response.completed" | "response.incomplete":
                return self._end(event["response"])
            case "response.failed":
                error = event["response"].get("error") or {}
                raise Failed(error, is_final=(error.get("code") or _TRANSIENT[0]) not in _TRANSIENT)
            case "response.cancelled":
                raise Failed({"message": "The upstream's response was cancelled.", "code": "cancelled"}, is_final=True)
            case "error":
                body = event if event.get("message") else event.get("error") or {}
                raise Failed(
                    {name: value for name, value in body.items() if (name, value) != ("type", "error")},
                    is_final=body.get("type") == "invalid_request_error",
                    has_ended=False,
                )
            case _:
                return []

    def conclude(self, response: Mapping[str, Any]) -> Json:
        """All that is missing of a response that has ended, in one chunk: there is no number for a part of it.

        Raises:
            Failed: the response has.
            Malformed: it is none.
        """
        try:
            return self._conclude(response)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Malformed from error

    def _conclude(self, response: Mapping[str, Any]) -> Json:
        if response["status"] not in ("completed", "incomplete"):
            error = response.get("error") or {"message": "The upstream's response was cancelled.", "code": "cancelled"}
            raise Failed(error, is_final=error.get("code") not in _TRANSIENT)
        delta: Json = {} if self.has_role else {"role": "assistant"}
        self.response_id, self.created, self.model = response["id"], int(response["created_at"]), response["model"]
        for name, whole in _message_of(response["output"]).items():
            if rest := whole[self.said[name] :]:
                delta[name] = rest
        if calls := [call for call in map(self._rest_of_call, *_calls_of(response["output"])) if call is not None]:
            delta["tool_calls"] = calls
        chunk = self._chunk(delta, finish_reason=self.finish_reason or self._reason(response))
        self.finish_reason, self.has_usage = chunk["choices"][0]["finish_reason"], True
        return {**chunk, "usage": _usage(response.get("usage"))}

    def _rest_of_call(self, output_index: int, item: Json) -> Json | None:
        if output_index not in self.calls:
            return self._call(output_index, item)
        index = self.calls[output_index]
        rest = item["arguments"][self.arguments[index] :]
        return {"index": index, "function": {"arguments": rest}} if rest else None

    def _begin(self, response: Json) -> list[Json]:
        if self.has_role:
            return []
        self.response_id, self.has_role = str(response["id"]), True
        self.created, self.model = int(response.get("created_at") or 0), str(response.get("model") or "")
        return [self._chunk({"role": "assistant", "content": ""})]

    def _begin_call(self, output_index: int, item: Json) -> Json:
        return {**self._chunk({"tool_calls": [self._call(output_index, item)]}), OUTPUT_INDEX: output_index}

    def _call(self, output_index: int, item: Json) -> Json:
        index = self.calls.setdefault(output_index, len(self.calls))
        function = {"name": item["name"], "arguments": item.get("arguments") or ""}
        return {"index": index, "id": item["call_id"], "type": "function", "function": function}

    def _end(self, response: Json) -> list[Json]:
        """The chunk with the finish reason, unless it is there already, and the one with usage."""
        chunks = []
        if self.finish_reason is None:
            self.finish_reason = self._reason(response)
            # Not its own number: whoever has only this chunk still lacks the other.
            finish = self._chunk({}, finish_reason=self.finish_reason)
            chunks.append({**finish, SEQUENCE_NUMBER: self.seen - 1})
        self.has_usage = True
        usage = _usage(response.get("usage"))
        return [*chunks, {**self._envelope(), "choices": [], "usage": usage}]

    def _reason(self, response: Mapping[str, Any]) -> str:
        details = response.get("incomplete_details") or {}
        if response.get("status") == "incomplete":
            return _FINISH_REASONS.get(str(details.get("reason")), "length")
        return "tool_calls" if self.calls else "stop"

    def _chunk(self, delta: Json, logprobs: Json | None = None, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        return {**self._envelope(), "choices": [choice]}

    def _envelope(self) -> Json:
        return {
            "id": self.response_id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            ANSWER_ID: self.response_id,
            SEQUENCE_NUMBER: self.seen,
        }


def response_id_of(event: Json) -> str | None:
    """The id that the first event tells; None for any other event."""
    response = event.get("response")
    if event.get("type") in _BEGINNINGS and isinstance(response, dict):
        return str(response.get("id"))
    return None


def _message_of(output: list[Json]) -> Json:
    """The texts of a whole output, by the member of a message that they are in."""
    said = {"reasoning_content": "", "content": "", "refusal": ""}
    for item in output:
        if item["type"] == "reasoning":
            summary = "\n\n".join(part["text"] for part in item.get("summary") or ())
            said["reasoning_content"] += summary or "".join(part["text"] for part in item.get("content") or ())
        for part in item["content"] if item["type"] == "message" else ():
            said["content"] += part.get("text") or ""
            said["refusal"] += part.get("refusal") or ""
    return said


def _calls_of(output: list[Json]) -> tuple[list[int], list[Json]]:
    """The tool calls of a whole output, and which of its items they are."""
    calls = [(index, item) for index, item in enumerate(output) if item["type"] == "function_call"]
    return [index for index, _ in calls], [item for _, item in calls]


def _logprobs(entries: Any) -> Json | None:
    if not entries:
        return None
    return {
        "content": [_logprob(e) | {"top_logprobs": list(map(_logprob, e.get("top_logprobs") or ()))} for e in entries],
        "refusal": None,
    }


def _logprob(entry: Json) -> Json:
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry.get("bytes")}


def _usage(usage: Json | None) -> Json | None:
    if usage is None:
        return None
    prompt, completion = usage["input_tokens"], usage["output_tokens"]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": usage.get("total_tokens", prompt + completion),
        "prompt_tokens_details": {"cached_tokens": (usage.get("input_tokens_details") or {}).get("cached_tokens", 0)},
        "completion_tokens_details": {
            "reasoning_tokens": (usage.get("output_tokens_details") or {}).get("reasoning_tokens", 0)
        },
    }
