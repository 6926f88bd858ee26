"""`piropiro up`: the whole stack as processes of one parent, which imports none of the packages it runs.

The parent binds the listening sockets and hands them to its API processes: the kernel spreads connections over
these, and one that arrives while all are down waits for the next.
"""

import asyncio
import contextlib
import dataclasses
import math
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import banner, embedded, folder
from cli.failure import StartFailed
from cli.logs import PROCESS_VARIABLE
from cli.preflight import check_redis, read_settings, without_password
from cli.processes import Program, Stack
from cli.readiness import HTTP_OK, PING, PONG, get, is_piropiro, wait_for_answer
from cli.sockets import PortInUse, free_port, http_url, listen, port_of
from cli.terminal import say, show

# -P: a folder named `api` or `cli` where the user happens to stand is not ours.
PIROPIRO = (sys.executable, "-P", "-m", "cli")

# At a desk nobody wants to wait for running chats after Ctrl-C.
DRAIN = "1"

# Seconds from SIGTERM to SIGKILL; workers get their drain on top.
GRACE = 5.0
HTTP_GRACE = 10.0  # above cli.serving.GRACEFUL_SHUTDOWN

READY_WITHIN = 60.0  # the first start compiles everything, on a slow machine too

# A signal may come twice, once to this process and once to its group: no second wish of the user's.
SAME_SIGNAL = 0.3


@dataclass(frozen=True)
class Options:
    """The command line of `piropiro up`."""

    api: int
    workers: int
    host: str
    port: int
    with_parent: bool = False


@dataclass(frozen=True)
class Doors:
    """The listening sockets: one that all replicas share, with several replicas one for each alone, the simulator's."""

    shared: socket.socket
    alone: Sequence[socket.socket]
    simulator: socket.socket | None

    def of_replica(self, number: int) -> list[socket.socket]:
        """What a replica, counted from 1, listens on."""
        return [self.shared, *self.alone[number - 1 : number]]

    def close(self) -> None:
        """Leave them to the processes that have them."""
        for door in (self.shared, *self.alone, self.simulator):
            if door is not None:
                door.close()


class Up:
    """One run of the stack."""

    def __init__(self, options: Options, doors: Doors, server: embedded.Server | None, directory: Path) -> None:
        self.options = options
        self.doors = doors
        self.server = server
        self.directory = directory
        self.stack = Stack()
        self.env = os.environ | {"PIROPIRO_DRAIN": os.environ.get("PIROPIRO_DRAIN") or DRAIN}

    async def run(self) -> None:
        """Start everything and keep it running until a signal, or until a process cannot be kept alive."""
        stop = self._stop_on_signals()
        start = asyncio.create_task(self._start())
        start.add_done_callback(self.stack.note_failure)
        ends: set[asyncio.Future[Any]] = {asyncio.create_task(stop.wait()), self.stack.given_up}
        if self.options.with_parent:
            ends.add(asyncio.create_task(_parent_ended()))
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        start.cancel()
        say("stopping")
        self.doors.close()
        await self.stack.stop()
        for end in done:
            end.result()

    async def _start(self) -> None:
        """Start everything at once, but for what would fail without Redis."""
        upstream = self._start_simulator(self.doors.simulator) if self.doors.simulator else {}
        if self.server is not None:
            await self._start_server(self.server)
        say(f"starting {self.options.workers} worker(s) and {self.options.api} API process(es)")
        self.stack.start(*(self._worker(f"worker-{i}", upstream) for i in range(1, self.options.workers + 1)))
        self.stack.start(*(self._api(i, upstream) for i in range(1, self.options.api + 1)))
        for door in self.doors.alone or [self.doors.shared]:
            name = "the API" if door is self.doors.shared else f"the API on port {port_of(door)}"
            await wait_for_answer(name, self.options.host, port_of(door), get("/readyz"), HTTP_OK, READY_WITHIN)
        if self.doors.simulator:
            port = port_of(self.doors.simulator)
            await wait_for_answer("the simulator", "127.0.0.1", port, get("/healthz"), HTTP_OK, READY_WITHIN)
        show(banner.banner(self._facts(simulated=bool(upstream))))

    async def _start_server(self, server: embedded.Server) -> None:
        port = free_port()
        self.env["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        say(f"starting the embedded server, {server.title}, on {self.env['REDIS_URL']}")
        log = self.directory / folder.LOG
        command = embedded.command(server, port, self.directory, log)
        self.stack.start(Program("embedded server", command, self.env, GRACE, log=log))
        await wait_for_answer("the embedded server", "127.0.0.1", port, PING, PONG, READY_WITHIN)

    def _start_simulator(self, door: socket.socket) -> dict[str, str]:
        """Start it; return the environment that makes others use it."""
        url = http_url("127.0.0.1", port_of(door))
        say(f"starting the simulator on {url}, as there is no OPENAI_API_KEY")
        self.stack.start(self._http_server("simulator", "simulator", [door]))
        return {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "not-a-real-key"}

    def _http_server(self, name: str, command: str, doors: Sequence[socket.socket]) -> Program:
        options = [part for door in doors for part in ("--fd", str(door.fileno()))]
        return Program(name, [*PIROPIRO, command, *options], self._env_of(name), HTTP_GRACE, doors)

    def _api(self, number: int, upstream: Mapping[str, str]) -> Program:
        program = self._http_server(f"api-{number}", "api", self.doors.of_replica(number))
        return dataclasses.replace(program, env={**program.env, **upstream})

    def _worker(self, name: str, upstream: Mapping[str, str]) -> Program:
        grace = GRACE + float(self.env["PIROPIRO_DRAIN"])
        return Program(name, [*PIROPIRO, "worker"], {**self._env_of(name), **upstream}, grace)

    def _env_of(self, name: str) -> dict[str, str]:
        return self.env | {PROCESS_VARIABLE: name}

    def _facts(self, *, simulated: bool) -> banner.Facts:
        return banner.Facts(
            url=http_url(self.options.host, port_of(self.doors.shared)),
            replicas=[http_url(self.options.host, port_of(door)) for door in self.doors.alone],
            redis=without_password(self.env["REDIS_URL"]),
            embedded=self.server is not None,
            simulated=simulated,
            api=self.options.api,
            workers=self.options.workers,
        )

    def _stop_on_signals(self) -> asyncio.Event:
        """Set by the first signal; a later one kills every process."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopped_at = math.inf

        def on_signal() -> None:
            nonlocal stopped_at
            if loop.time() > stopped_at + SAME_SIGNAL:
                self.stack.kill()
            stopped_at = min(stopped_at, loop.time())
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                loop.add_signal_handler(number, on_signal)
        return stop


def run(options: Options) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP.

    Raises:
        StartFailed: before anything is started if a setting, a port or REDIS_URL is bad, else with all stopped.
    """
    settings = read_settings()
    with (
        contextlib.closing(_open_doors(options)) as doors,
        folder.own_folder() as directory,
    ):
        if os.environ.get("REDIS_URL"):
            check_redis(settings)
            server = None
        else:
            server = embedded.find_server()
        asyncio.run(_run(options, doors, server, directory))


async def _run(options: Options, doors: Doors, server: embedded.Server | None, directory: Path) -> None:
    await Up(options, doors, server, directory).run()


def _open_doors(options: Options) -> Doors:
    shared = _listen(options, options.port)
    replicas = range(1, options.api + 1) if options.api > 1 else ()
    alone = [_listen(options, options.port and options.port + number) for number in replicas]
    has_upstream = os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")
    return Doors(shared, alone, None if has_upstream else listen("127.0.0.1", 0))


def _listen(options: Options, port: int) -> socket.socket:
    try:
        return listen(options.host, port)
    except PortInUse:
        owner = "another Piropiro" if is_piropiro(options.host, port) else "another program"
        choice = f"--port {port + 1}"
        if options.with_parent:
            choice = f'make up ARGS="{choice}"'
        raise StartFailed(
            f"port {port} on {options.host} is in use by {owner}: stop that, or choose another port with {choice}"
        ) from None


async def _parent_ended() -> None:
    """Return once the process that started this one is gone, which `make` cannot tell us when it is killed."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.5)
