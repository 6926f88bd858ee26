"""The machine: what else it was doing while the bench ran."""

import os
import re
import resource
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_GROUP = Path("/proc/self/autogroup")
_USER_NICE_SYSTEM = slice(1, 4)


class Load:
    """Compares the CPU time that all programs used since it was made with what the bench and its processes did."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._ours = _our_seconds()

    def sentence(self) -> str:
        """Say it; call it when the bench's processes have ended."""
        seconds = time.monotonic() - self._began
        before, after = self._busy, _busy_seconds()
        if before is None or after is None:
            return f"The run took {seconds:.0f} s."
        capacity = seconds * (os.cpu_count() or 1)
        ours = _our_seconds() - self._ours
        others = max(0.0, after - before - ours)
        return (
            f"The run took {seconds:.0f} s; it used {ours / capacity:.0%} of the cores' time,"
            f" and other programs {others / capacity:.0%}{_priority()}."
        )


def _priority() -> str:
    """What Linux prefers us by: our niceness counts inside our session, the session's own against others."""
    found = re.search(r"nice (-?\d+)", _GROUP.read_text()) if _GROUP.exists() else None
    niceness = int(found[1]) if found else os.nice(0)
    return f", at niceness {niceness} for the bench" if niceness else ""


def _busy_seconds() -> float | None:
    if not _STAT.exists():
        return None
    ticks = _STAT.read_text().split("\n", 1)[0].split()[_USER_NICE_SYSTEM]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _our_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
