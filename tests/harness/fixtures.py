"""Fixtures of contract and integration tests, and the processes' output in a failure's report."""

import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from harness.client import Client, Simulator
from harness.openai_client import connecting_openai
from harness.page import Shell, opened_shell
from harness.polling import block_until
from harness.processes import Process, free_port
from harness.stack import Stack

PATIENCE = 30.0
LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=1)
"""Idle connections are given up before the server does, which would fail a request sent at that moment."""


class StackStarter:
    """Starts stacks: so many `apis` and `workers`, a server that `is_durable`, and settings by name in lower case."""

    def __init__(self, upstream_url: str, factory: pytest.TempPathFactory):
        self.stacks = list[Stack]()
        self._upstream_url = upstream_url
        self._factory = factory

    def __call__(self, *, apis: int = 1, workers: int = 1, is_durable: bool = False, **settings: object) -> Stack:
        stack = Stack(self._factory.mktemp("stack"), self._upstream_url, settings, is_durable=is_durable)
        self.stacks.append(stack)
        stack.start(apis=apis, workers=workers)
        return stack

    def close(self) -> None:
        for stack in self.stacks:
            stack.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        values = getattr(item, "funcargs", {})
        stacks = [value for value in values.values() if isinstance(value, Stack)]
        stacks += values["start_stack"].stacks if "start_stack" in values else []
        for stack in stacks:
            report.sections += [(f"output of {process.name}", process.output()) for process in stack.processes]
    return report


@pytest.fixture(scope="session")
def upstream_url(tmp_path_factory) -> Iterator[str]:
    """The address of the simulator that every stack uses."""
    port = free_port()
    command = [sys.executable, "-m", "cli", "simulator", "--port", str(port)]
    process = Process("simulator", command, tmp_path_factory.mktemp("simulator"), dict(os.environ))
    url = f"http://127.0.0.1:{port}"
    try:
        block_until(lambda: _is_healthy(url))
        yield url
    finally:
        process.kill()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def start_stack(upstream_url, tmp_path_factory) -> Iterator[StackStarter]:
    """Start a stack of the test's own, to which it may do what it likes."""
    with closing(StackStarter(upstream_url, tmp_path_factory)) as start:
        yield start


@pytest.fixture(scope="module")
def start_module_stack(upstream_url, tmp_path_factory) -> Iterator[StackStarter]:
    """The same for the tests of one module together."""
    with closing(StackStarter(upstream_url, tmp_path_factory)) as start:
        yield start


@pytest.fixture(scope="session")
def start_shared_stack(upstream_url, tmp_path_factory) -> Iterator[StackStarter]:
    """The same for all tests; none of them may do anything to it."""
    with closing(StackStarter(upstream_url, tmp_path_factory)) as start:
        yield start


@pytest.fixture(scope="session")
def stack(start_shared_stack) -> Stack:
    """Two replicas and two workers with default settings."""
    return start_shared_stack(apis=2, workers=2)


@pytest.fixture(scope="session")
def impatient(start_shared_stack) -> Stack:
    """One replica and one worker with small limits."""
    return start_shared_stack(
        keepalive=0.2, stall_timeout=1, job_timeout=3, max_attempts=2, max_output=20_000, max_body=50_000, retention=2
    )


@pytest.fixture(scope="session")
def talkative(start_shared_stack) -> Stack:
    """One replica and one worker with frequent keep-alives."""
    return start_shared_stack(keepalive=0.2)


@asynccontextmanager
async def connecting() -> AsyncIterator[Callable[[str], Client]]:
    """Make clients, and close them in the end."""
    async with AsyncExitStack() as clients:

        def make(url: str) -> Client:
            http = httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=LIMITS)
            clients.push_async_callback(http.aclose)
            return Client(http)

        yield make


@asynccontextmanager
async def watching(upstream_url: str) -> AsyncIterator[Simulator]:
    """What the simulator remembers from now on."""
    async with httpx.AsyncClient(base_url=upstream_url, timeout=PATIENCE, limits=LIMITS) as http:
        await http.delete("/simulator/requests")
        yield Simulator(http)


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Callable[[str], Client]]:
    """Make clients; they are closed after the test."""
    async with connecting() as make:
        yield make


@pytest.fixture
def api(stack, connect) -> Client:
    """A client of the shared stack's first replica."""
    return connect(stack.apis[0].url)


@pytest.fixture
def other_api(stack, connect) -> Client:
    """A client of its second replica."""
    return connect(stack.apis[1].url)


@pytest.fixture
def impatient_api(impatient, connect) -> Client:
    """A client of the impatient stack's replica."""
    return connect(impatient.apis[0].url)


@pytest.fixture
def talkative_api(talkative, connect) -> Client:
    """A client of the talkative stack's replica."""
    return connect(talkative.apis[0].url)


@pytest_asyncio.fixture
async def connect_openai() -> AsyncIterator[Callable[[str], AsyncOpenAI]]:
    """Make clients of OpenAI's; they are closed after the test."""
    async with connecting_openai() as make:
        yield make


@pytest.fixture
def openai_client(stack, connect_openai) -> AsyncOpenAI:
    """OpenAI's client of the shared stack's first replica."""
    return connect_openai(stack.apis[0].url)


@pytest.fixture
def other_openai_client(stack, connect_openai) -> AsyncOpenAI:
    """The same of its second replica."""
    return connect_openai(stack.apis[1].url)


@pytest_asyncio.fixture
async def simulator(upstream_url) -> AsyncIterator[Simulator]:
    """What the simulator remembers; of this test alone."""
    async with watching(upstream_url) as simulator:
        yield simulator


@pytest.fixture
def key() -> str:
    """A simulator key or idempotency key that is this test's own."""
    return uuid.uuid4().hex


@pytest.fixture
def shell(tmp_path) -> Iterator[Shell]:
    """A bash in a folder of the test's own."""
    yield from opened_shell(tmp_path)
