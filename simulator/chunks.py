"""The reply in OpenAI's format: SSE frames of `chat.completion.chunk`, or one `chat.completion`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import msgspec

from simulator.reply import Choice, Reply
from simulator.tokens import tokenise

FINGERPRINT = "fp_simulator"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode
_EPOCH = 1_735_689_600


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of a completion share; `digest` (hex) is of the request, and id and time follow from it."""

    digest: str
    model: str
    extra: dict[str, Any]

    @property
    def id(self) -> str:
        """The completion's id."""
        return f"chatcmpl-{self.digest[:24]}"

    def call_id(self, choice: int, position: int) -> str:
        """The id of a choice's tool call."""
        return f"call_{self.digest[-16:]}{choice:02x}{position:02x}"

    def fields(self, kind: str) -> dict[str, Any]:
        """The top-level fields but choices and usage."""
        created = _EPOCH + int(self.digest[:6], 16)
        common = {"id": self.id, "object": kind, "created": created, "model": self.model}
        return common | {"system_fingerprint": FINGERPRINT} | self.extra


class FrameWriter:
    """Encodes chunks as SSE frames; what stays the same from delta to delta is encoded once."""

    def __init__(self, head: Head, *, with_usage: bool, with_logprobs: bool) -> None:
        self._head = head
        self._prefix = b"data: " + _encode(head.fields("chat.completion.chunk"))[:-1] + b',"choices":['
        self._suffix = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"
        self._with_usage = with_usage
        self._with_logprobs = with_logprobs

    def opening(self, choices: tuple[Choice, ...]) -> list[bytes]:
        """The frames with the role, one per choice; content is null where the choice has none."""
        return [
            self._frame(index, {"role": "assistant", "content": None if choice.tool_calls or choice.refusal else ""})
            for index, choice in enumerate(choices)
        ]

    def deltas(self, choices: tuple[Choice, ...]) -> Iterator[bytes]:
        """One frame per delta; those of several choices take turns."""
        streams = [_deltas(choice, partial(self._head.call_id, index)) for index, choice in enumerate(choices)]
        for turn in zip_longest(*streams):
            for index, delta in enumerate(turn):
                if delta is not None:
                    yield self._frame(index, delta)

    def closing(self, reply: Reply) -> list[bytes]:
        """The frames with the finish_reason, one per choice, and usage if it was asked for."""
        frames = [self._frame(index, {}, choice.finish_reason) for index, choice in enumerate(reply.choices)]
        if self._with_usage:
            usage = _encode(_usage(reply))
            frames.append(b"".join((self._prefix, b'],"usage":', usage, b"}\n\n")))
        return frames

    def _frame(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        logprobs = None
        if self._with_logprobs and delta.get("content"):
            logprobs = _logprobs([delta["content"]])
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return b"".join((self._prefix, _encode(choice), self._suffix))


def write_raw(chunk: dict[str, Any]) -> bytes:
    """The frame of any JSON object."""
    return b"data: " + _encode(chunk) + b"\n\n"


def write_completion(head: Head, reply: Reply, *, with_logprobs: bool, is_finished: bool = True) -> bytes:
    """The reply as one `chat.completion`; unless it `is_finished`, without finish_reason."""
    choices = [
        {
            "index": index,
            "message": _message(head, index, choice),
            "logprobs": _logprobs(choice.content) if with_logprobs else None,
            "finish_reason": choice.finish_reason if is_finished else None,
        }
        for index, choice in enumerate(reply.choices)
    ]
    return _encode(head.fields("chat.completion") | {"choices": choices, "usage": _usage(reply)})


def count_deltas(choice: Choice) -> int:
    """How many delta frames a choice takes; the same as its completion tokens."""
    calls = sum(1 + len(tokenise(call.arguments_json)) for call in choice.tool_calls)
    return len(choice.reasoning) + len(choice.content) + len(choice.refusal) + calls


def _deltas(choice: Choice, id_of: Callable[[int], str]) -> Iterator[dict[str, Any]]:
    for piece in choice.reasoning:
        yield {"reasoning_content": piece}
    for piece in choice.content:
        yield {"content": piece}
    for piece in choice.refusal:
        yield {"refusal": piece}
    for index, call in enumerate(choice.tool_calls):
        function = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": id_of(index), "type": "function", "function": function}]}
        for piece in tokenise(call.arguments_json):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _message(head: Head, index: int, choice: Choice) -> dict[str, Any]:
    text = "".join(choice.content)
    has_content = choice.content or not (choice.tool_calls or choice.refusal)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if has_content else None,
        "refusal": "".join(choice.refusal) or None,
    }
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "id": head.call_id(index, position),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for position, call in enumerate(choice.tool_calls)
        ]
    return message


def _usage(reply: Reply) -> dict[str, Any]:
    generated = sum(map(count_deltas, reply.choices))
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": reply.prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": sum(len(choice.reasoning) for choice in reply.choices)},
    }


def _logprobs(tokens: Sequence[str]) -> dict[str, Any]:
    content = [
        {"token": token, "logprob": -len(token) / 16, "bytes": list(token.encode()), "top_logprobs": []}
        for token in tokens
        if token
    ]
    return {"content": content, "refusal": None}
