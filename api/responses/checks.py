"""What a posted Responses body may contain: readers that check one value and name it when they refuse it."""

from collections.abc import Collection
from typing import Any

from api.errors import ApiError
from shared.events import Json

_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    dict: "an object",
    list: "an array",
}


def invalid(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """400 for a value; `param` is its path."""
    return ApiError(400, f"Invalid '{param}': {message}.", param=param, code=code)


def unsupported(param: str, reason: str) -> ApiError:
    """400 for what OpenAI knows and this server does not."""
    return ApiError(400, f"Unsupported parameter: '{param}': {reason}.", param=param, code="unsupported_parameter")


def unknown(param: str, hint: str = "") -> ApiError:
    """400 for what nobody knows."""
    return ApiError(400, f"Unknown parameter: '{param}'.{hint}", param=param, code="unknown_parameter")


def missing(param: str) -> ApiError:
    """400 for what has to be there."""
    return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def expect(value: Any, kind: type, param: str) -> Any:
    """`value`, which is to be of JSON type `kind`; an integer is also a number, a boolean is neither.

    Raises:
        ApiError: 400.
    """
    is_right = isinstance(value, (int, float) if kind is float else kind)
    if not is_right or (kind in (int, float) and isinstance(value, bool)):
        raise invalid(param, f"expected {_NAMES[kind]}", "invalid_type")
    return value


def optional(body: Json, name: str, kind: type, prefix: str = "") -> Any:
    """The member `name` of an object whose path is `prefix`; None if it is absent or null.

    Raises:
        ApiError: 400.
    """
    value = body.get(name)
    return None if value is None else expect(value, kind, path(prefix, name))


def required(body: Json, name: str, kind: type, prefix: str = "") -> Any:
    """The same of a member that has to be there.

    Raises:
        ApiError: 400.
    """
    if name not in body:
        raise missing(path(prefix, name))
    return expect(body[name], kind, path(prefix, name))


def one_of(value: Any, choices: Collection[str], param: str) -> Any:
    """`value`, which is to be None or one of `choices`.

    Raises:
        ApiError: 400.
    """
    if value is not None and value not in choices:
        raise invalid(param, f"supported values are {', '.join(map(repr, choices))}")
    return value


def only(body: Json, known: Collection[str], prefix: str = "") -> None:
    """Refuse members that are not `known`.

    Raises:
        ApiError: 400.
    """
    for name in body:
        if name not in known:
            raise unknown(path(prefix, name))


def path(prefix: str, name: str) -> str:
    """The path of a member."""
    return f"{prefix}.{name}" if prefix else name
