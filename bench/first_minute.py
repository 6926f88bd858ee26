"""The newcomer's first minute: from `git clone` to the first delta, with an empty pip cache.

The last commit of this checkout is cloned into an empty folder and run by `make up`, under the user's own pip
configuration. What pip receives goes through a proxy of ours, which counts it.
"""

import asyncio
import contextlib
import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.client import ApiFailed
from bench.machine import Load
from bench.processes import ROOT, STOP_TIMEOUT, StartFailed

RESULTS = Path(__file__).parent / "results" / "first-minute.md"
RUNS = 5
PATIENCE = 600.0

CLONE, VENV, DOWNLOAD, UNPACK, START, DELTA = PHASES = (
    "clone, from this disk",
    "create `.venv`",
    "download the packages",
    "unpack them",
    "first start, until ready",
    "POST until the first delta",
)
LAST_LINES = {VENV: "installing the packages", DOWNLOAD: "  unpacking", UNPACK: "installed in", START: "  Piropiro is"}
"""What a phase's last line begins with."""

BODY = b'{"messages":[{"role":"user","content":"Hello"}]}'
REQUEST = (
    b"POST /v1/chat/stream HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
LEFT_OUT = re.compile(r"PIROPIRO_|OPENAI_|REDIS_URL$|MAKE|PYTHON(?!$)|PIP_NO_CACHE_DIR$|VIRTUAL_ENV$")
"""Variables that a newcomer does not have; `PYTHON` may choose one."""


@dataclass(frozen=True, slots=True)
class Minute:
    """What one run gave: seconds by phase and of the next `make up`, megabytes, and the Python it ran under."""

    seconds: Mapping[str, float]
    again: float
    cloned: float
    received: float
    installed: float
    python: str


class Counter:
    """A proxy for TLS that counts the bytes on their way to the client."""

    def __init__(self) -> None:
        self.received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client to where it wants to go."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            host, _, port = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            with contextlib.closing(far_writer):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer, counts=True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool = False) -> None:
        while data := await reader.read(65536):
            self.received += len(data) * counts
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def run(*, quick: bool, seed: int) -> bool:  # noqa: ARG001 - there is no chance in it
    """Measure, print, and unless `quick` write the results."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        raise StartFailed("this benchmark puts a proxy of its own before pip: unset HTTPS_PROXY")
    load = Load()
    minutes = [await _minute() for _ in range(1 if quick else RUNS)]
    text = report(minutes, load.sentence())
    print(text)
    if not quick:
        RESULTS.write_text(text, encoding="utf-8")
    return True


def report(minutes: Sequence[Minute], load: str) -> str:
    """The results as Markdown."""
    rows = [(phase, [minute.seconds[phase] for minute in minutes]) for phase in PHASES]
    rows += [
        ("**all together**", [sum(minute.seconds.values()) for minute in minutes]),
        ("the next `make up`, until ready", [minute.again for minute in minutes]),
    ]
    table = "\n".join(
        f"| {title} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |"
        for title, values in rows
    )
    last = minutes[-1]
    return f"""# The first minute

From `git clone` to the first delta by `make up`, with an empty pip cache. Median of {len(minutes)} run(s), in seconds.

| phase | median | range |
|---|--:|--:|
{table}

pip received {last.received:.1f} MB, index pages and TLS included. The clone is {last.cloned:.1f} MB, `.venv` \
{last.installed:.0f} MB.

- {last.python} and the pip that it brings, on {os.cpu_count()} cores. {load}
- The package index of this machine is near and answers at once: add what your network takes for these megabytes.
- The first delta comes from the simulator, which waits 0.25 s before it, as a model would.
"""


async def _minute() -> Minute:
    counter = Counter()
    with tempfile.TemporaryDirectory(prefix="first-minute-") as name:
        checkout = Path(name, "piropiro")
        env = {key: value for key, value in os.environ.items() if not LEFT_OUT.match(key)}
        async with await asyncio.start_server(counter.serve, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            env |= {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "PIP_CACHE_DIR": f"{name}/cache"}
            began = time.perf_counter()
            clone = await asyncio.create_subprocess_exec("git", "clone", "--quiet", str(ROOT), str(checkout))
            if await clone.wait():
                raise StartFailed("git clone failed: the lines above say why")
            seconds = {CLONE: time.perf_counter() - began}
            cloned = _megabytes(checkout / ".git")
            async with _make_up(checkout, env) as output:
                url, python = await _follow(output, seconds)
                seconds[DELTA] = await _first_delta(url)
        again: dict[str, float] = {}
        async with _make_up(checkout, env) as output:
            await _follow(output, again)
        return Minute(seconds, again[START], cloned, counter.received / 1e6, _megabytes(checkout / ".venv"), python)


@contextlib.asynccontextmanager
async def _make_up(checkout: Path, env: Mapping[str, str]) -> AsyncIterator[asyncio.StreamReader]:
    """`make up` on a free port, and what it writes to standard output."""
    process = await asyncio.create_subprocess_exec(
        *("make", "up", "ARGS=--port 0"),
        cwd=checkout,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            yield process.stdout
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.stdout.read(), STOP_TIMEOUT)
        await process.wait()


async def _follow(output: asyncio.StreamReader, seconds: dict[str, float]) -> tuple[str, str]:
    """Add each phase's seconds when its last line comes; return the stack's URL, and the Python if it was named."""
    last, python, words = time.perf_counter(), "", ""
    while line := (await output.readline()).decode():
        words = line.strip() or words
        if line.startswith("creating .venv with "):
            python = line.split(" with ")[1].strip()
        for phase, beginning in LAST_LINES.items():
            if line.startswith(beginning):
                now = time.perf_counter()
                seconds[phase], last = now - last, now
                if phase is START:
                    return line.split()[-1], python
    raise StartFailed(f"`make up` ended early: {words}")


async def _first_delta(url: str) -> float:
    host, _, port = url.removeprefix("http://").rpartition(":")
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.closing(writer):
        writer.write(REQUEST % (len(BODY), BODY))
        while line := await reader.readline():
            if line.startswith(b"data:"):
                return time.perf_counter() - began
    raise ApiFailed("the stream ended without a delta")


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*")) / 1e6
