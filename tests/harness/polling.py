"""Waiting for a condition, never for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Value = TypeVar("Value")

_INTERVAL = 0.02


async def wait_until(condition: Callable[[], Value | Awaitable[Value]], timeout: float = 20.0) -> Value:  # noqa: ASYNC109 - it bounds the polling
    """Poll `condition` until it gives something true, and return that; it may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout:g} s; last: {value!r}"
        await asyncio.sleep(_INTERVAL)


def block_until(condition: Callable[[], object], timeout: float = 40.0) -> None:
    """Poll `condition` where nothing else is to run meanwhile."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(_INTERVAL)
