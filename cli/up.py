"""`piropiro up`: the whole stack as processes of one parent, which imports none of the packages it runs.

The parent binds the listening sockets and hands them to its API processes: the kernel spreads connections over
these, and one that arrives while all are down waits for the next.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli import banner, embedded
from cli.logs import PROCESS_VARIABLE
from cli.preflight import check_redis, read_settings, without_password
from cli.processes import Program, Stack
from cli.readiness import HTTP, HTTP_OK, PING, PONG, get, wait_for_answer
from cli.sockets import free_port, http_url, listen, port_of
from cli.terminal import say, show

# At a desk nobody wants to wait for running chats after Ctrl-C.
DRAIN = "1"

# Seconds from SIGTERM to SIGKILL; workers get their drain on top.
GRACE = 5.0
API_GRACE = 10.0  # above cli.api.GRACEFUL_SHUTDOWN

READY_WITHIN = 30.0


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
    """The listening sockets: one that all replicas share, and with several replicas one for each alone."""

    shared: socket.socket
    alone: Sequence[socket.socket]

    def of_replica(self, index: int) -> list[socket.socket]:
        """What a replica (from 0) listens on."""
        return [self.shared, *self.alone[index : index + 1]]

    def close(self) -> None:
        """Refuse connections from now on."""
        for door in (self.shared, *self.alone):
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
        ends = {asyncio.create_task(stop.wait()), self.stack.given_up}
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
        if self.server is not None:
            await self._start_server(self.server)
        upstream = {} if has_upstream() else await self._start_simulator()
        say(f"starting {self.options.workers} worker(s) and {self.options.api} API process(es)")
        drain = float(self.env["PIROPIRO_DRAIN"])
        self.stack.start(
            *(
                self._program(f"worker-{number}", ["worker"], GRACE + drain, extra_env=upstream)
                for number in range(1, self.options.workers + 1)
            )
        )
        self.stack.start(*(self._replica(index) for index in range(self.options.api)))
        for door in self.doors.alone or [self.doors.shared]:
            name = "the API" if door is self.doors.shared else f"the API on port {port_of(door)}"
            await wait_for_answer(name, self.options.host, port_of(door), get("/readyz"), HTTP_OK, READY_WITHIN)
        show(banner.banner(self._facts(simulated=bool(upstream))))

    async def _start_server(self, server: embedded.Server) -> None:
        port = free_port()
        self.env["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        say(f"starting the embedded server, {server.title}, on {self.env['REDIS_URL']}")
        log = self.directory / "server.log"
        command = embedded.command(server, port, self.directory, log)
        self.stack.start(Program("embedded server", command, self.env, GRACE, log=log))
        await wait_for_answer("the embedded server", "127.0.0.1", port, PING, PONG, READY_WITHIN)

    async def _start_simulator(self) -> dict[str, str]:
        """The environment that makes a worker use it."""
        port = free_port()
        say(f"starting the simulator on {http_url('127.0.0.1', port)}, as there is no OPENAI_API_KEY")
        self.stack.start(self._program("simulator", ["simulator", "--port", str(port)], GRACE))
        await wait_for_answer("the simulator", "127.0.0.1", port, get("/"), HTTP, READY_WITHIN)
        return {"OPENAI_BASE_URL": f"{http_url('127.0.0.1', port)}/v1", "OPENAI_API_KEY": "simulator"}

    def _replica(self, index: int) -> Program:
        fds = [door.fileno() for door in self.doors.of_replica(index)]
        arguments = ["api", *(part for fd in fds for part in ("--fd", str(fd)))]
        return self._program(f"api-{index + 1}", arguments, API_GRACE, fds=fds)

    def _program(
        self,
        name: str,
        arguments: Sequence[str],
        grace: float,
        *,
        fds: Sequence[int] = (),
        extra_env: dict[str, str] | None = None,
    ) -> Program:
        # -P: a folder named `api` or `cli` where the user happens to stand is not ours.
        argv = [sys.executable, "-P", "-m", "cli", *arguments]
        return Program(name, argv, self.env | (extra_env or {}) | {PROCESS_VARIABLE: name}, grace, fds)

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
        """Set by the first signal; a further one kills every process."""
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                self.stack.kill()
            stop.set()

        loop = asyncio.get_running_loop()
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
        tempfile.TemporaryDirectory(prefix="piropiro-") as directory,
    ):
        server = None
        if os.environ.get("REDIS_URL"):
            check_redis(settings)
        else:
            server = embedded.find_server()
        asyncio.run(_run(options, doors, server, Path(directory)))


def has_upstream() -> bool:
    """Whether the environment names an upstream."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))


async def _run(options: Options, doors: Doors, server: embedded.Server | None, directory: Path) -> None:
    await Up(options, doors, server, directory).run()


def _open_doors(options: Options) -> Doors:
    shared = listen(options.host, options.port)
    if options.api == 1:
        return Doors(shared, [])
    own_ports = [options.port and options.port + number for number in range(1, options.api + 1)]
    return Doors(shared, [listen(options.host, port) for port in own_ports])


async def _parent_ended() -> None:
    """Return once the process that started this one is gone, which `make` cannot tell us when it is killed."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
