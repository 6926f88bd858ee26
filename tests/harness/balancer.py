"""HAProxy with the configuration that we ship, in front of a stack's replicas."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from faults.deploy import HAPROXY, localise
from harness.polling import block_until
from harness.processes import ROOT, Process, free_port


class Balancer:
    """It runs, and passes requests on to whichever replicas it believes to be up."""

    def __init__(self, directory: Path, replicas: Sequence[int]):
        port, self._status = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = directory / "haproxy.cfg"
        shipped = (ROOT / "deploy" / "haproxy.cfg").read_text()
        config.write_text(localise(shipped, port, self._status, replicas))
        assert HAPROXY
        self.process = Process("haproxy", [HAPROXY, "-db", "-f", str(config)], directory)

    def states(self) -> list[str]:
        """What it believes of each replica: `UP`, `DOWN`, or something in between."""
        try:
            table = httpx.get(f"http://127.0.0.1:{self._status}/stats;csv").text
        except httpx.TransportError:
            return []
        names, *rows = [line.split(",") for line in table.removeprefix("# ").splitlines()]
        servers = [dict(zip(names, row, strict=True)) for row in rows]
        return [server["status"] for server in servers if server["svname"].startswith("replica")]


@contextmanager
def balancing(directory: Path, replicas: Sequence[int]) -> Iterator[Balancer]:
    """A balancer for the replicas at these ports; all of them are up."""
    balancer = Balancer(directory, replicas)
    try:
        block_until(lambda: balancer.states() == ["UP"] * len(replicas))
        yield balancer
    finally:
        balancer.process.kill()
