"""Child processes that are killed, stopped and paused, each by its own pid; none outlives us."""

import asyncio
import contextlib
import ctypes
import errno
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PORTS = iter(random.SystemRandom().sample(range(20_000, 32_768), 12_768))
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OURS = re.compile(r"(?i)PIROPIRO_|OPENAI_|REDIS_URL$|.*_proxy$")
"""Variables of the caller's environment that would change what is tested."""

_RESTART_PAUSE = 0.5

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def free_port() -> int:
    """A free port of 127.0.0.1, never the same twice, and none that Linux might give to a connection meanwhile."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no port is left")


class Place:
    """A process's place: there is one in it, unless we took it away; one that ends by itself is started again.

    `crashes` are its ends that nobody asked for, with its last lines. Who does something to it that takes several steps
    holds `turn` meanwhile.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.output = folder / f"{name}.log"
        self.crashes: list[str] = []
        self.turn = asyncio.Lock()
        self._command = command
        self._environment = {
            **{key: value for key, value in os.environ.items() if not _OURS.match(key)},
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._is_wanted = False
        self._awake_since = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process that is there now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Put a process in; on Linux it dies with us, whatever ends us."""
        with self.output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_prepare_child,
            )
        self._is_wanted = True
        self._watching = asyncio.create_task(self._watch(self._process))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        if self._is_wanted and process is self._process:
            self.crashes.append(f"{self.name} ended by itself with status {status}: {self.last_lines()}")
            await asyncio.sleep(_RESTART_PAUSE)
            if self._is_wanted and process is self._process:
                await self.start()

    async def kill(self) -> None:
        """SIGKILL."""
        self._is_wanted = False
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def stop(self, patience: float) -> bool:
        """SIGTERM; False if it had to be killed, because it did not end in time."""
        self._is_wanted = False
        self._signal(signal.SIGTERM)
        if self._process is None:
            return True
        try:
            await asyncio.wait_for(self._process.wait(), patience)
        except TimeoutError:
            await self.kill()
            return False
        return True

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        process = self._process
        self._awake_since = math.inf
        self._signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            if process is self._process:
                self._signal(signal.SIGCONT)
            self._awake_since = time.monotonic()

    def was_paused_since(self, moment: float) -> bool:
        """Whether it has been paused at any time since then (monotonic seconds)."""
        return self._awake_since > moment

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def last_lines(self, count: int = 8) -> str:
        """The end of what it wrote."""
        return " | ".join(self.output.read_text(errors="replace").splitlines()[-count:])

    async def leave(self) -> None:
        """End the process for good."""
        await self.kill()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)


def _prepare_child() -> None:
    os.setpgid(0, 0)
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
