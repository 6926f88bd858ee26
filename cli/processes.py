"""The life of the stack's processes: each is restarted when it dies by itself, and all are stopped in order."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli import leash
from cli.failure import StartFailed
from cli.terminal import say

SETTLED = 5.0  # seconds of life after which a process counts as started
STARTS = 4  # starts in a row, each over sooner than that, after which we give up
FIRST_DELAY = 0.25  # seconds before the first restart, doubled for each further one


@dataclass(frozen=True)
class Program:
    """What to run, and how many seconds it may take to stop before it is killed.

    It inherits `sockets` under the same descriptors, and logs to standard error or to `log`.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    grace: float
    sockets: Sequence[socket.socket] = ()
    log: Path | None = None


class Child:
    """A program kept running until it is stopped."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep the program running until `stop`.

        Raises:
            StartFailed: it cannot be started, or ended early several times in a row.
        """
        early_ends = 0
        while True:
            started = time.monotonic()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            early_ends = early_ends + 1 if time.monotonic() - started < SETTLED else 1
            end = f"{self.program.name} ended ({describe(status)})"
            if early_ends == STARTS:
                raise StartFailed(f"{end} {STARTS} times in a row: {_last_words(self.program.log)}")
            delay = FIRST_DELAY * 2 ** (early_ends - 1)
            say(f"{end}: restarting it in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
                return

    def stop(self) -> None:
        """Ask the program to end; `run` returns once it has."""
        self._stopping.set()

    def kill(self) -> None:
        """End the program at once."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _run_once(self) -> int:
        process = self._process = await _spawn(self.program)
        with leash.watch(process.pid):
            ended = asyncio.create_task(process.wait())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not ended.done():
                await self._end(process, ended)
            return await ended

    async def _end(self, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        process.terminate()
        await asyncio.wait((ended,), timeout=self.program.grace)
        if not ended.done():
            say(f"{self.program.name} did not stop in {self.program.grace:g} s: killing it")
            process.kill()


class Stack:
    """Children in tiers, stopped in the reverse order of their start."""

    def __init__(self) -> None:
        self._tiers: list[dict[Child, asyncio.Task[None]]] = []
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails as soon as a child, or another task the stack needs, does."""

    def start(self, *programs: Program) -> None:
        """Start programs that are stopped together."""
        children = [Child(program) for program in programs]
        tier = {child: asyncio.create_task(child.run(), name=child.program.name) for child in children}
        for task in tier.values():
            task.add_done_callback(self.note_failure)
        self._tiers.append(tier)

    async def stop(self) -> None:
        """Stop every child, tier by tier."""
        for tier in reversed(self._tiers):
            for child in tier:
                child.stop()
            await asyncio.wait(tier.values())

    def kill(self) -> None:
        """Stop every child at once."""
        for tier in self._tiers:
            for child in tier:
                child.kill()

    def note_failure(self, task: asyncio.Task[None]) -> None:
        """Give up if the task failed: a callback for tasks."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.given_up.done():
            self.given_up.set_exception(error)


def describe(status: int) -> str:
    """An exit status as subprocess reports it, in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _last_words(log: Path | None) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log and log.exists() else []
    return lines[-1] if lines else "its last lines above say why"


async def _spawn(program: Program) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *program.argv,
            env=program.env,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            pass_fds=[door.fileno() for door in program.sockets],
            start_new_session=True,  # the terminal's Ctrl-C is for the parent, which stops its children in order
            preexec_fn=leash.before_exec(),
        )
    except OSError as error:
        raise StartFailed(f"cannot start {program.name}: {error}") from None
