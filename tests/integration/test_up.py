"""`piropiro up` with real processes: it comes up, answers, heals, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from harness.polling import wait_until
from harness.programs import NEEDS_CURL

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes through /proc"),
    pytest.mark.timeout(120),
]

UNSET = ("REDIS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "PIROPIRO_DRAIN")


class Up:
    """A running `piropiro up`, with a folder of its own for temporary files."""

    def __init__(self, process: asyncio.subprocess.Process, folder: str) -> None:
        self.process = process
        self.folder = folder
        self.banner = ""

    @property
    def url(self) -> str:
        return found(r"is ready: (\S+)", self.banner)

    @property
    def curl(self) -> str:
        return found(r"(?m)^curl .*$", self.banner, 0)

    async def wait_for_banner(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while "Ctrl-C stops everything" not in self.banner:
                line = await self.process.stdout.readline()
                assert line, f"ended early: {await self.errors()}"
                self.banner += line.decode()

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    def family(self, word: str = "") -> list[int]:
        """The ids of its processes, itself included; with a word, of those whose command line has it."""
        return [pid for pid in all_pids() if self._is_ours(pid) and (not word or word in words(pid))]

    def _is_ours(self, pid: int) -> bool:
        # The embedded server overwrites its environment with its title, but works in the folder.
        return f"TMPDIR={self.folder}\0".encode() in read(pid, "environ") or working_folder(pid).startswith(self.folder)

    async def wait_until_all_gone(self) -> None:
        await wait_until(lambda: not self.family())


def found(pattern: str, text: str, group: int = 1) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match[group]


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def read(pid: int, name: str) -> bytes:
    """A file of a process, empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def words(pid: int) -> list[str]:
    """The words of a command line, without folders."""
    return [Path(word).name for word in read(pid, "cmdline").decode().replace("\0", " ").split()]


def working_folder(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


@asynccontextmanager
async def piropiro(*arguments: str, **env: str) -> AsyncIterator[Up]:
    clean = {name: value for name, value in os.environ.items() if name not in UNSET}
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            env=clean | env | {"TMPDIR": folder},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Under nohup it would rightly ignore the signal, as a child of ours.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        up = Up(process, folder)
        try:
            yield up
        finally:
            for pid in up.family():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await process.communicate()


@asynccontextmanager
async def whole_stack(*arguments: str) -> AsyncIterator[Up]:
    async with piropiro("up", "--port", "0", *arguments) as up:
        await up.wait_for_banner()
        yield up


async def failed_start(*arguments: str, **env: str) -> tuple[int | None, str]:
    """The exit status and the lines of a start that must fail."""
    async with piropiro(*arguments, **env) as up:
        async with asyncio.timeout(30):
            output, errors = await up.process.communicate()
        assert output == b""
        assert not up.family()
        return up.process.returncode, errors.decode()


@NEEDS_CURL
async def test_command_of_the_banner_streams_an_answer() -> None:
    async with whole_stack() as up:
        assert "simulator" in up.banner
        shell = await asyncio.create_subprocess_exec("/bin/sh", "-c", up.curl, stdout=-1, stderr=-1)
        output, _ = await asyncio.wait_for(shell.communicate(), 60)
        assert output.decode().rstrip().endswith("data: [DONE]")
        assert "event: done" in output.decode()
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{up.url}/v1/models/simulator")).json()["owned_by"] == "simulator"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signal_stops_everything(number: signal.Signals) -> None:
    async with whole_stack() as up:
        assert up.family("valkey-server") or up.family("redis-server")
        up.process.send_signal(number)
        assert await asyncio.wait_for(up.process.wait(), 20) == 0
        assert not up.family()
        assert not os.listdir(up.folder)  # noqa: PTH208 - nothing else runs here that could be blocked


async def test_signal_during_the_start_stops_everything() -> None:
    async with piropiro("up", "--port", "0") as up:
        await wait_until(lambda: bool(up.family("simulator")))
        up.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(up.process.wait(), 20) == 0
        assert not up.family()


async def test_second_signal_does_not_wait() -> None:
    async with whole_stack() as up:
        (worker,) = up.family("worker")
        os.kill(worker, signal.SIGSTOP)  # it cannot stop by itself now
        up.process.send_signal(signal.SIGINT)
        await wait_until(lambda: not up.family("api"))
        await asyncio.sleep(0.5)  # or it would be taken for the same Ctrl-C
        up.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(up.process.wait(), 3) == 0
        assert not up.family()


async def test_killed_parent_leaves_nothing_behind() -> None:
    async with whole_stack("--api", "2", "--workers", "2") as up:
        assert len(up.family()) == 7
        up.process.kill()
        await up.wait_until_all_gone()


async def test_killed_replica_is_replaced_while_the_other_serves() -> None:
    async with whole_stack("--api", "2") as up, httpx.AsyncClient() as client:
        first, second = found(r"replicas +(.*)", up.banner).split()
        victim = up.family("api")[0]
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: victim not in up.family())
        assert (await client.get(f"{up.url}/healthz")).status_code == 200
        await wait_until(lambda: len(up.family("api")) == 2)
        for url in (first, second):
            assert (await client.get(f"{url}/healthz", timeout=20)).status_code == 200


async def test_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        for command in ("up", "api"):
            status, errors = await failed_start(command, "--port", port)
            assert status == 1
            assert errors.count("\n") == 1
            assert f"port {port}" in errors
            assert "--port" in errors


async def test_port_of_another_piropiro_is_said_to_be_that() -> None:
    async with whole_stack() as up, httpx.AsyncClient(base_url=up.url, timeout=20) as client:
        await client.get("/openapi.json")  # the first one takes time, and whoever is asked what it is has a second
        port = int(up.url.rpartition(":")[2])
        status, errors = await failed_start("up", "--with-parent", "--port", str(port))
        assert status == 1
        assert errors.count("\n") == 1
        assert "another Piropiro" in errors
        assert f'make up ARGS="--port {port + 1}"' in errors


@pytest.mark.parametrize("command", ["up", "api", "worker"])
async def test_unreachable_redis_is_one_line_without_the_password(command: str) -> None:
    arguments = (command, "--port", "0") if command != "worker" else (command,)
    status, errors = await failed_start(*arguments, REDIS_URL="redis://user:s3cret@127.0.0.1:1/0")
    assert status == 1
    assert errors.count("\n") == 1
    assert "redis://127.0.0.1:1/0" in errors
    assert "s3cret" not in errors


@pytest.mark.parametrize("command", ["up", "api", "worker"])
async def test_bad_setting_is_one_line_that_names_it(command: str) -> None:
    status, errors = await failed_start(command, PIROPIRO_LEASE="soon")
    assert status == 2
    assert errors.count("\n") == 1
    assert "PIROPIRO_LEASE" in errors
