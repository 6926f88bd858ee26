"""Child processes with their output in a file; every one is ended by its own pid."""

import errno
import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.polling import wait_until

ROOT = Path(__file__).parents[2]
_SHOWN = 4000
_MINE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ALL = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_OURS = range(20_000 + _MINE, 32_768, _ALL)
_PORTS = iter(random.SystemRandom().sample(_OURS, len(_OURS)))
"""Of the ports below those that Linux gives to connections, a share for each process of the tests: a port that one was
given is in nobody's way until it is bound."""


def free_port() -> int:
    """A free port of 127.0.0.1, never the same twice."""
    for port in _PORTS:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no port is left")


class Process:
    """One running child."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, env: Mapping[str, str] | None = None):
        self.name = name
        self._output = directory / f"{name}.log"
        with self._output.open("ab") as output:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, env=env
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    @property
    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def count_files(self) -> int:
        """How many file descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def output(self) -> str:
        """The last of what it wrote."""
        return self._output.read_text(errors="replace")[-_SHOWN:]

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._popen.kill()
        self._popen.wait()

    async def terminate(self, within: float) -> int:
        """Ask it to end; its exit status."""
        self._popen.terminate()
        await wait_until(lambda: self.exit_status is not None, within)
        return self._popen.returncode
