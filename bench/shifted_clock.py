"""Runs a Python module under a wall clock that is wrong: `python -m bench.shifted_clock SECONDS MODULE [ARG…]`.

Only what Python code sees as the time of day is shifted, and only in this process; monotonic clocks, and with them
every sleep and time-out, stay as they are. It is done before the module is imported, so `from time import time` gets
the wrong clock too.
"""

import datetime as dt
import runpy
import sys
import time
from typing import Self


def shift(seconds: float) -> None:
    """Put the wall clock forward by `seconds` (back, if negative), for whoever asks from now on."""
    true_time, true_time_ns = time.time, time.time_ns

    class ShiftedDatetime(dt.datetime):
        """A `datetime` whose idea of now is shifted."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Self:
            return cls.now(dt.UTC).replace(tzinfo=None)

    time.time = lambda: true_time() + seconds
    time.time_ns = lambda: true_time_ns() + int(seconds * 1e9)
    dt.datetime = ShiftedDatetime  # type: ignore[misc]  # replacing it is the point


if __name__ == "__main__":
    shift(float(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
