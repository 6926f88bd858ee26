"""Child processes with their output in a file; every one is ended by its own pid."""

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.polling import wait_until

ROOT = Path(__file__).parents[2]
_SHOWN = 4000
_PORTS = range(20_000, 32_768)


def free_port() -> int:
    """A free port of 127.0.0.1, and none of those that Linux gives to connections, which would soon take it."""
    while True:
        port = secrets.choice(_PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


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
