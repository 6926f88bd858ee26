"""The systems that are compared: how the processes of each are started, and known to be ready."""

import functools
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import Redis

from bench import processes
from bench.compare.loads import SOURCE, Target

DIRECT, TEXTBOOK, PIROPIRO, PIPE = "direct", "textbook queue", "piropiro", "pipe"
_MAX_JOBS = "6000"


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's command, and the key of Redis that is there as soon as it works."""

    command: list[str]
    key: str


@dataclass(frozen=True, slots=True)
class System:
    """One way to stream answers. With a worker it also has a Redis, and chats that can be read again."""

    name: str
    about: str
    api: Callable[[int], list[str]]
    worker: Worker | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def _uvicorn(app: str) -> Callable[[int], list[str]]:
    options = ["--host", "127.0.0.1", "--no-access-log", "--backlog", "4096"]
    return lambda port: [sys.executable, "-m", "uvicorn", app, *options, "--port", str(port)]


SYSTEMS = (
    System(
        DIRECT,
        "one FastAPI process that passes AsyncOpenAI's typed stream on (`bench/baselines/direct.py`)",
        _uvicorn("bench.baselines.direct:app"),
    ),
    System(
        TEXTBOOK,
        "FastAPI, and one arq worker that awaits an XADD per delta; an XREAD BLOCK per reader; arq's defaults but for"
        " `max_jobs` (`bench/baselines/textbook.py`)",
        _uvicorn("bench.baselines.textbook:app"),
        Worker([sys.executable, "-m", "arq", "bench.baselines.textbook.WorkerSettings"], "arq:queue:health-check"),
    ),
    System(
        PIROPIRO,
        f"`piropiro api` and `piropiro worker`, one process each, at their defaults but for"
        f" `PIROPIRO_MAX_JOBS={_MAX_JOBS}`",
        lambda port: [sys.executable, "-m", "cli", "api", "--port", str(port)],
        Worker([sys.executable, "-m", "cli", "worker"], "piropiro:workers"),
        {"PIROPIRO_MAX_JOBS": _MAX_JOBS, "PIROPIRO_DRAIN": "0"},
    ),
    System(
        PIPE,
        "a bare ASGI app that passes the upstream's bytes on and looks at none of them: the limit of one hop in Python"
        " (`bench/baselines/pipe.py`)",
        _uvicorn("bench.baselines.pipe:app"),
    ),
)


@asynccontextmanager
async def running(
    system: System, *, apis: int = 1, workers: int = 1, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Target]:
    """Run so many processes of the system, and an upstream, for as long as the context is open.

    More than one worker is for a system whose workers' key is a sorted set of them.

    Raises:
        StartFailed: a process did not start.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="piropiro-bench-")))
        source_port, api_ports = processes.free_port(), [processes.free_port() for _ in range(apis)]
        environment = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{source_port}/v1",
            "OPENAI_API_KEY": "bench",
            **system.environment,
            **(settings or {}),
        }
        pids: dict[str, int] = {}

        async def start(name: str, command: list[str], is_ready: Callable[[], Awaitable[bool]]) -> None:
            pids[name] = await stack.enter_async_context(
                processes.running(name, command, environment, directory / f"{name}.log", is_ready)
            )

        await start(SOURCE, [sys.executable, "-m", "bench.compare.source", str(source_port)], _listening(source_port))
        redis_port = None
        if system.worker is not None:
            redis_port = processes.free_port()
            environment["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
            command, _ = processes.redis_server(redis_port, directory)
            await start("Redis", command, _listening(redis_port))
        for number, port in enumerate(api_ports, 1):
            await start(_numbered("API", number), system.api(port), _listening(port))
        if system.worker is not None:
            assert redis_port is not None
            redis = await stack.enter_async_context(Redis(port=redis_port))
            key = system.worker.key

            async def has_workers(number: int) -> bool:
                return bool(await redis.exists(key) if number == 1 else await redis.zcard(key) >= number)

            for number in range(1, workers + 1):
                is_ready = functools.partial(has_workers, number)
                await start(_numbered("worker", number), system.worker.command, is_ready)
        yield Target(api_ports, pids, redis_port)


def _numbered(name: str, number: int) -> str:
    return f"{name} {number}" if number > 1 else name


def _listening(port: int) -> Callable[[], Awaitable[bool]]:
    return functools.partial(processes.is_listening, port)
