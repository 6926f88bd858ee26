"""The response object, and what it is made of that does not come from the log."""

import re
from dataclasses import dataclass
from typing import Any, Self

from shared import json_text
from shared.events import Json

_CHAT, _RESPONSE = "chat_", "resp_"

_RESPONSE_ID = re.compile(r"resp_(?P<chat>[a-z2-7]{20})")
_ITEM_ID = re.compile(r"[a-z]+_(?P<chat>[a-z2-7]{20})_[0-9]+")

_ECHOED = (
    *("instructions", "max_output_tokens", "parallel_tool_calls", "previous_response_id", "prompt_cache_key"),
    *("prompt_cache_retention", "reasoning", "safety_identifier", "store", "temperature", "text", "tool_choice"),
    *("tools", "top_logprobs", "top_p", "truncation", "user", "metadata"),
)

_SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})

# OpenAI's errors of a response have one of a few codes; these are the ones that others can be said by.
_CODES = {
    "rate_limit_exceeded": "rate_limit_exceeded",
    "rate_limit_error": "rate_limit_exceeded",
    "insufficient_quota": "rate_limit_exceeded",
    "invalid_request_error": "invalid_prompt",
}


def response_id_of(chat_id: str) -> str:
    """The id of the response that a chat is."""
    return _RESPONSE + chat_id.removeprefix(_CHAT)


def chat_id_of(response_id: str) -> str | None:
    """The inverse; None for what can be no response's id."""
    match = _RESPONSE_ID.fullmatch(response_id)
    return _CHAT + match["chat"] if match else None


def response_of(item_id: str) -> str | None:
    """The id of the response that an item belongs to; None for what can be no item's."""
    match = _ITEM_ID.fullmatch(item_id)
    return _RESPONSE + match["chat"] if match else None


@dataclass(frozen=True, slots=True)
class Head:
    """What a chat's record says of its response; the same from beginning to end.

    `created_at` is in Unix seconds; `echo` is what the object repeats of the request.
    """

    id: str
    model: str
    created_at: int
    echo: Json
    shows_logprobs: bool

    @classmethod
    def of(cls, chat_id: str, model: str, created_ms: int, origin: bytes) -> Self:
        """Read what `ResponseRequest.origin` wrote."""
        read: Json = json_text.loads(origin)
        return cls(response_id_of(chat_id), model, created_ms // 1000, read["echo"], read["shows_logprobs"])

    @property
    def is_background(self) -> bool:
        return bool(self.echo["background"])

    @property
    def is_stored(self) -> bool:
        return bool(self.echo["store"])

    @property
    def shows_summaries(self) -> bool:
        """The reasoning is told as its summary, because the client asked for one."""
        return self.echo["reasoning"]["summary"] is not None

    def item_id(self, prefix: str, output_index: int) -> str:
        """The id of an item of the output, the same on every replica."""
        return f"{prefix}_{self.id.removeprefix(_RESPONSE)}_{output_index}"

    def shape(
        self,
        status: str,
        output: list[Json],
        *,
        error: Json | None = None,
        incomplete_reason: str | None = None,
        service_tier: str | None = None,
        usage: Json | None = None,
        completed_at: int | None = None,
    ) -> Json:
        """The response object as it stands."""
        echo = self.echo
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": echo["background"],
            "completed_at": completed_at,
            "error": error,
            "incomplete_details": None if incomplete_reason is None else {"reason": incomplete_reason},
            "max_tool_calls": None,
            "model": self.model,
            "output": output,
            "service_tier": service_tier or echo["service_tier"],
            "usage": usage,
            **{name: echo[name] for name in _ECHOED},
        }


def response_error(error: Json) -> Json:
    """`response.error`: the log's error, under one of the codes that OpenAI's types allow."""
    code = _CODES.get(str(error.get("code"))) or _CODES.get(str(error.get("type"))) or "server_error"
    members = {"type": error.get("type"), "param": error.get("param")}
    return {"code": code, "message": str(error.get("message")), **members}


def response_usage(usage: Any) -> Json | None:
    """`response.usage` from what a Chat Completions upstream counted; None if it did not."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens") or prompt + completion
    before, after = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": _count(before, "cached_tokens"),
            "cache_write_tokens": _count(before, "cache_write_tokens"),
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": _count(after, "reasoning_tokens")},
        "total_tokens": total,
    }


def known_service_tier(tier: Any) -> str | None:
    """The tier that an upstream says it used, if OpenAI's types know it."""
    return tier if isinstance(tier, str) and tier in _SERVICE_TIERS else None


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
