r"""JSON for everything that Python's `str` can hold, lone surrogates included.

msgspec is several times faster than the standard library and keeps integers of any size, but it refuses a lone
surrogate (`"\ud83d"`: half an emoji, which some upstreams send when they split one between two chunks). The standard
library takes over there, so that nothing an upstream says is lost.
"""

import json
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


MAX_DEPTH = 500
"""Deepest nesting accepted. Without a limit it would be the interpreter's, which depends on the depth of the caller's
stack: what one process could store, another could not read."""

_TOO_DEEP = f"nested deeper than {MAX_DEPTH}"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def loads(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than `MAX_DEPTH`, or with a number that no JSON can give back.
    """
    try:
        value = _loads(data)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    # Most texts do not even have that many brackets.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_too_deep(value):
        raise ValueError(_TOO_DEEP)
    return value


def loads_string(data: bytes) -> bytes | None:
    """Parse JSON that is a string, to UTF-8; None if it is anything else, or has a lone surrogate."""
    try:
        return _decode_string(data).encode()
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _loads(data: bytes) -> Any:
    try:
        return _decode(data)
    except msgspec.DecodeError:
        value = json.loads(data.decode(), parse_constant=_refuse_constant, parse_int=_parse_int)
        json.dumps(value, allow_nan=False)  # 1e999 parses as infinity, which no JSON can say
        return value


def _parse_int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python's own limit, whose message is for programmers
        raise ValueError("an integer has too many digits") from None


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        members = (parent.values() if isinstance(parent, dict) else parent for parent in level)
        level = [child for children in members for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def dumps(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON; text with a lone surrogate falls back to ASCII escapes."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
