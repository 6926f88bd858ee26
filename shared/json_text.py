r"""JSON for everything that Python's `str` can hold, lone surrogates included.

msgspec is several times faster than the standard library and keeps integers of any size, but it refuses a lone
surrogate (`"\ud83d"`: half an emoji, which some upstreams send when they split one between two chunks). The standard
library takes over there, so that nothing an upstream says is lost.
"""

import json
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def loads(data: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: not JSON, not UTF-8, nested too deeply, or with a number that no JSON text can give back.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, RecursionError):
        try:
            text = data.decode() if isinstance(data, bytes) else data
            value = json.loads(text, parse_constant=_refuse_constant)
            json.dumps(value, allow_nan=False)  # 1e999 parses as infinity, which no JSON can say
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return value


def dumps(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON; text with a lone surrogate falls back to ASCII escapes."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
