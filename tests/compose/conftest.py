"""The compose project as a user starts it, under a name and on a port of the tests' own."""

import csv
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from harness.polling import block_until
from harness.processes import ROOT, free_port

# What there is of wget in the load balancer's image, or else bash.
FETCH_STATS = """
wget -qO - 'http://127.0.0.1:8404/stats;csv' ||
bash -c 'exec 3<>/dev/tcp/127.0.0.1/8404; printf "GET /stats;csv HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3'
"""


@dataclass(frozen=True)
class Server:
    """A replica as the load balancer sees it; `streams` of its `requests` are under way."""

    ip: str
    is_up: bool
    streams: int
    requests: int


class Project:
    """`docker compose` and `docker` for one project of two replicas and two workers."""

    def __init__(self) -> None:
        self.name = f"piropiro-test-{uuid.uuid4().hex[:8]}"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("PIROPIRO_", "OPENAI_"))}
        self._env["PIROPIRO_PORT"] = str(port)

    def compose(self, *arguments: str) -> str:
        # The developer's own .env is none of the tests'.
        return self.docker("compose", "--env-file", os.devnull, "-p", self.name, *arguments)

    def docker(self, *arguments: str) -> str:
        run = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=self._env, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"docker {' '.join(arguments)}: {run.stderr[-2000:]}"
        return run.stdout

    def up(self, *options: str, api: int = 2, worker: int = 2) -> None:
        """Bring everything up, and wait until the load balancer and the replicas know of it."""
        self.compose("up", "-d", "--wait", *options, "--scale", f"api={api}", "--scale", f"worker={worker}")
        block_until(lambda: len(self.up_servers()) == api)
        block_until(lambda: self.live_workers() == worker)

    def restore(self) -> None:
        """Undo whatever a test has done to the containers."""
        for container in self.docker("ps", "-q", "--filter", "status=paused", *self._own()).split():
            self.docker("unpause", container)
            self.docker("kill", container)  # unpaused alone it would count as unhealthy until its next healthcheck
        self.up("--no-recreate")

    def down(self) -> None:
        self.compose("down", "-v", "--timeout", "2")

    def containers(self, service: str = "") -> list[str]:
        """Ids of the containers that run, of all services or one."""
        return self.compose("ps", "-q", *([service] if service else [])).split()

    def inspect(self, container: str) -> dict:
        (description,) = json.loads(self.docker("inspect", container))
        return description

    def servers(self) -> list[Server]:
        """The replicas that the load balancer knows of."""
        table = self.compose("exec", "-T", "lb", "sh", "-c", FETCH_STATS).partition("# pxname")[2]
        rows = csv.DictReader(f"pxname{table}".splitlines())
        return [
            Server(row["addr"].partition(":")[0], row["status"].startswith("UP"), int(row["scur"]), int(row["stot"]))
            for row in rows
            if row["pxname"] == "api" and row["svname"] != "BACKEND" and not row["status"].startswith("MAINT")
        ]

    def up_servers(self) -> list[Server]:
        return [server for server in self.servers() if server.is_up]

    def replica_with_stream(self) -> str:
        """The container of the one replica that serves a stream right now."""
        (ip,) = [server.ip for server in self.servers() if server.streams]
        (container,) = [container for container in self.containers("api") if self._ip(container) == ip]
        return container

    def live_workers(self) -> int:
        """How many workers a replica sees."""
        try:
            return httpx.get(f"{self.url}/readyz").json().get("workers", 0)
        except (httpx.TransportError, json.JSONDecodeError):
            return 0

    def _ip(self, container: str) -> str:
        (network,) = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return network["IPAddress"]

    def _own(self) -> tuple[str, str]:
        return "--filter", f"label=com.docker.compose.project={self.name}"


@pytest.fixture(scope="session")
def running_project(request) -> Iterator[Project]:
    project = Project()
    try:
        project.up("--build")
        yield project
        if request.session.testsfailed:
            print(project.compose("logs", "--tail", "50"))  # noqa: T201 - shown with the failure
    finally:
        project.down()


@pytest.fixture
def project(running_project) -> Iterator[Project]:
    """The project, whole; a test may do to it what it likes."""
    yield running_project
    running_project.restore()


@pytest.fixture
def api(project, connect):
    """A client of whatever replica the load balancer picks."""
    return connect(project.url)
