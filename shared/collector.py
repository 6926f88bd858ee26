"""Python's garbage collector, set for a process that serves: it would stop every stream while it works."""

import gc

_YOUNG = 10_000
"""Containers made and not yet freed at which the youngest are looked through; by default 700, 5 % of a busy replica's
time. What is garbage is nearly always freed without the collector: it is there for cycles only."""


def calm() -> None:
    """Call it once, when everything is imported and composed: that stays for ever and need not be walked through.

    Walking through it took 50 ms each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
