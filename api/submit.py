"""Admission: what a client posted, checked and turned into a chat to create."""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from api.errors import ApiError
from shared import json_text
from shared.chat import OnDisconnect, OnWorkerLoss, Surface, new_chat_id
from shared.queue import NewChat

_MAX_IDEMPOTENCY_KEY = 255
_MAX_CHOICES = 128
"""OpenAI's own limit on `n`."""

Choice = TypeVar("Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Options:
    """The request headers that shape a chat; None where the client sent none."""

    idempotency_key: str | None = None
    on_worker_loss: str | None = None
    on_disconnect: str | None = None


def new_chat(body: bytes, options: Options, default_model: str, surface: Surface = Surface.NATIVE) -> NewChat:
    """Check a posted Chat Completions body and its headers.

    The upstream's request is the client's body with `model`, `stream` and `stream_options.include_usage` set;
    everything else passes unchanged.

    Raises:
        ApiError: 400 that names the field.
    """
    parsed = parse_object(body)
    is_native = surface is Surface.NATIVE
    _check(parsed, most_choices=1 if is_native else _MAX_CHOICES)
    asked = parsed.get("stream_options") or {}
    # An OpenAI client that does not ask for usage is not shown any; natively it can decline it for all.
    stream_options = {"include_usage": True, **asked} if is_native else {**asked, "include_usage": True}
    model = parsed.get("model") or default_model
    request = {**parsed, "model": model, "stream": True, "stream_options": stream_options}
    return compose(parsed, request, options, surface)


def compose(
    parsed: dict[str, Any],
    request: dict[str, Any],
    options: Options,
    surface: Surface,
    origin: bytes = b"{}",
    retention_ms: int | None = None,
) -> NewChat:
    """The chat for a checked body and what the upstream is to be sent for it, `model` included.

    Raises:
        ApiError: 400 that names the header.
    """
    key = (options.idempotency_key or "").strip() or None
    if key is not None and len(key) > _MAX_IDEMPOTENCY_KEY:
        raise invalid("Idempotency-Key", f"must have at most {_MAX_IDEMPOTENCY_KEY} characters")
    return NewChat(
        id=new_chat_id(),
        model=request["model"],
        request=json_text.dumps(request),
        fingerprint=_fingerprint(parsed, surface),
        idempotency_key=key,
        on_worker_loss=_choose(OnWorkerLoss, options.on_worker_loss, "X-Piropiro-On-Worker-Loss"),
        on_disconnect=_choose(OnDisconnect, options.on_disconnect, "X-Piropiro-On-Disconnect"),
        surface=surface,
        origin=origin,
        retention_ms=retention_ms,
    )


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that was posted.

    Raises:
        ApiError: 400.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "The body is not valid UTF-8.", code="invalid_utf8") from None
    try:
        parsed = json_text.loads(body)
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return parsed


def _check(body: dict[str, Any], most_choices: int) -> None:
    messages = body.get("messages")
    if messages is None:
        raise ApiError(400, "messages is required: a list of messages.", param="messages", code="missing_required")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "must be a list of at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise invalid(f"messages[{index}]", "must be an object with a role")
        if not isinstance(message.get("role"), str):
            raise invalid(f"messages[{index}].role", "must be a string such as 'user'")
    check_model(body)
    n = body.get("n")
    if n is not None and (type(n) is not int or not 1 <= n <= most_choices):
        raise invalid(
            "n", "must be 1: a chat is one answer" if most_choices == 1 else f"must be from 1 to {most_choices}"
        )
    stream_options = body.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, dict):
        raise invalid("stream_options", "must be an object")


def check_model(body: dict[str, Any]) -> None:
    """Check what a body says of the model.

    Raises:
        ApiError: 400.
    """
    model = body.get("model")
    if model is not None and (not isinstance(model, str) or not _is_text(model)):
        raise invalid("model", "must be a string of valid Unicode")


def _is_text(value: str) -> bool:
    """Has a UTF-8 form: no lone surrogates."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _choose(choices: type[Choice], value: str | None, header: str) -> Choice:
    default = next(iter(choices))
    if not value:
        return default
    try:
        return choices(value.strip().lower())
    except ValueError:
        raise invalid(header, f"must be one of {', '.join(choices)}") from None


def invalid(param: str, message: str) -> ApiError:
    """400: the value of `param` will not do; `message` goes on after its name."""
    return ApiError(400, f"{param} {message}.", param=param, code="invalid_value")


def _fingerprint(body: dict[str, Any], surface: Surface) -> str:
    """Stands for the parsed body on its surface: independent of spacing and of the order of members."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    if surface is not Surface.NATIVE:
        canonical = f"{surface} {canonical}"
    return hashlib.sha256(canonical.encode()).hexdigest()
