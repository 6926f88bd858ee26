"""Ties a child process to this one: when this process ends, however it ends, the child is killed.

On Linux the kernel does it. Elsewhere a shell waits beside each child for the end of a pipe that only this
process holds open; it is started just after its child, so a parent killed in between leaves the child behind.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

PR_SET_PDEATHSIG = 1  # linux/prctl.h
WATCHER = ("/bin/sh", "-c", 'read -r _; kill -9 "$1"', "sh")

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def before_exec() -> Callable[[], None] | None:
    """What a forked child must run before it becomes another program: Popen's `preexec_fn`.

    The kernel watches the *thread* that forks: call Popen in one that lives as long as the process.
    """
    if _libc is None:
        return None
    libc, parent = _libc, os.getpid()

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above, which then watches whoever adopted us
            os._exit(1)

    return tie


def watch(pid: int) -> contextlib.AbstractContextManager[None]:
    """Guard the child while the context is open, where the kernel does not."""
    return contextlib.nullcontext() if _libc is not None else watch_from_shell(pid)


@contextlib.contextmanager
def watch_from_shell(pid: int) -> Iterator[None]:
    """Guard the child by a shell that outlives this process."""
    watcher = subprocess.Popen(  # noqa: S603 - a constant and a number
        (*WATCHER, str(pid)), stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        watcher.kill()
        watcher.communicate()
