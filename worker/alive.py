"""A sign of life for whoever watches the process from outside, as a container's healthcheck does: a file's time.

The file grows old when the event loop hangs, but not because Redis is away: what Redis could not take yet is in this
process, which appends it as soon as Redis is back, and a watcher that killed it would lose that. Only a worker that
has not reached Redis for longer than any chat may run has nothing left to save.
"""

import asyncio
import contextlib
from pathlib import Path

from worker.lease import Lease

_INTERVAL = 1.0


async def show_life(file: Path, lease: Lease, patience: float) -> None:
    """Touch `file` every second, unless no heartbeat has reached Redis for `patience` seconds; ends by cancellation."""
    while True:
        if lease.silence < patience:
            with contextlib.suppress(OSError):  # then it grows old, which is what there is to tell
                file.touch()  # noqa: ASYNC240 - takes microseconds
        await asyncio.sleep(_INTERVAL)
