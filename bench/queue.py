"""The queue: how long a chat waits for its job to start, and how many jobs really run at once.

"Enqueue to job start" is taken from Redis's own clock (see `bench.monitor`): from the moment at which the script that
creates chat and job begins, to the moment at which the job, running in the worker, has claimed the chat. It includes
both scripts, and arq's own start of a job in between. A wrong clock of a process cannot change it.
"""

import asyncio
import contextlib
import os
import platform
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from redis.asyncio import Redis

from bench import echo, processes
from bench.client import Client, Posted
from bench.machine import Load
from bench.monitor import Monitor
from bench.report import ALONE, AtOnce, Row, Situation, report
from bench.upstream import ANSWER, HOLD, Upstream

RESULTS = Path(__file__).parent / "results" / "queue.md"
HELD = 300
SKEW = 0.2
_MAX_JOBS = 400
_AT_ONCE_JOBS, _AT_ONCE_WORKERS, _TOO_MANY = 250, 2, 20
_WARM_UP = 20
_POSTING = 8
"""Requests that the bench has open at once while it fills the worker."""

_BEAT_PATIENCE = 10.0
_BEAT_LOOK = 0.05
_REGISTERED = "piropiro:workers"
_PACE = 5.0


@dataclass(frozen=True, slots=True)
class Setup:
    """One worker, and the situations it is measured in, one after the other."""

    situations: Sequence[Situation]
    plain_arq: bool = False
    clock_ahead: float = 0.0


def plan(*, quick: bool) -> list[Setup]:
    """Every situation, by worker."""
    chats, rate, polled, polled_rate = (40, 25.0, 16, 8.0) if quick else (300, 20.0, 60, 8.0)

    def idle(suffix: str = "") -> Situation:
        return Situation(f"idle{suffix}", chats, rate)

    def busy(suffix: str = "") -> Situation:
        return Situation(f"{HELD} jobs in progress{suffix}", chats, rate, HELD)

    streaming = Situation(
        f"{HELD} jobs in progress, {_PACE:g} deltas/s on each", chats, rate, HELD, _PACE, is_required=False
    )
    polling = [
        Situation("plain `arq`, idle", polled, polled_rate, is_required=False),
        Situation(f"plain `arq`, {HELD} jobs in progress", polled, polled_rate, HELD, is_required=False),
    ]
    late = Situation("plain `arq`, worker's clock 200 ms behind", polled, polled_rate, is_required=False)
    ahead, behind = ", worker's clock 200 ms ahead", ", worker's clock 200 ms behind"
    if quick:
        return [
            Setup([idle(), busy()]),
            Setup([busy(ahead)], clock_ahead=SKEW),
            Setup([busy(behind)], clock_ahead=-SKEW),
            Setup([late], plain_arq=True, clock_ahead=-SKEW),
        ]
    return [
        Setup([idle(), busy(), streaming]),
        Setup([idle(ahead), busy(ahead)], clock_ahead=SKEW),
        Setup([idle(behind), busy(behind)], clock_ahead=-SKEW),
        Setup(polling, plain_arq=True),
        Setup([late], plain_arq=True, clock_ahead=-SKEW),
    ]


async def run(*, quick: bool, seed: int) -> bool:
    """Measure, print, and unless `quick` write the results; whether nothing but a latency was amiss."""
    load = Load()
    rows = []
    async with _bench(random.Random(seed)) as bench:
        for setup in plan(quick=quick):
            rows += await bench.measure(setup)
        at_once = await bench.run_at_once()
        server = bench.server
    conditions = (
        f"{os.cpu_count()} cores, shared by everything: Redis, API, worker and the bench, which is client and upstream;"
        f" {platform.system()}, Python {platform.python_version()}, {server}; seed {seed}. {load.sentence()}"
    )
    text = report(rows, at_once, conditions, 1000 * SKEW)
    print(f"\n{text}")
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text)
    return not any((at_once.faults, *(row.faults for row in rows)))


@contextlib.asynccontextmanager
async def _bench(rng: random.Random) -> AsyncIterator["Bench"]:
    """Server, API and upstream, running; no worker yet."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="piropiro-bench-")))
        redis_port, api_port, upstream_port = (processes.free_port() for _ in range(3))
        command, title = processes.redis_server(redis_port, directory)
        environment = {
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream_port}/v1",
            "OPENAI_API_KEY": "bench",
            "PIROPIRO_DRAIN": "1",
        }

        async def has_redis() -> bool:
            return await processes.is_listening(redis_port)

        await stack.enter_async_context(
            processes.running("the Redis server", command, {}, directory / "redis.log", has_redis)
        )
        client, upstream, monitor = Client(api_port), Upstream(), Monitor()
        await stack.enter_async_context(upstream.serving(upstream_port))
        await stack.enter_async_context(monitor.watching(redis_port))
        await stack.enter_async_context(
            processes.running("the API", processes.api(api_port), environment, directory / "api.log", client.is_up)
        )
        stack.push_async_callback(client.close)
        redis = await stack.enter_async_context(Redis(port=redis_port))

        async def hears_bell() -> bool:
            return int((await redis.info("clients"))["blocked_clients"]) > 0

        await stack.enter_async_context(
            processes.running("the yardstick", processes.echo(redis_port), {}, directory / "echo.log", hears_bell)
        )
        yield Bench(client, upstream, monitor, redis, environment, directory, rng, title)


class Bench:
    """Measures one setup after the other on one server and one API replica."""

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        monitor: Monitor,
        redis: Redis,
        environment: dict[str, str],
        directory: Path,
        rng: random.Random,
        server: str,
    ) -> None:
        self.server = server
        self._client = client
        self._upstream = upstream
        self._monitor = monitor
        self._redis = redis
        self._environment = environment
        self._directory = directory
        self._rng = rng
        self._posted = 0
        self._rung = 0

    async def measure(self, setup: Setup) -> list[Row]:
        """Start the setup's worker, measure its situations, stop it."""
        command = processes.worker(plain_arq=setup.plain_arq, clock_ahead=setup.clock_ahead)
        async with self._workers(command, 1, _MAX_JOBS):
            rows = [await self._measure(situation) for situation in setup.situations]
        if setup.plain_arq and setup.clock_ahead < 0 and min(rows[0].starts) < 1000 * SKEW:
            # arq leaves alone what lies in the future: only by a clock that is right can it start one so soon.
            rows[0].faults.append("the worker's clock was not shifted")
        return rows

    async def run_at_once(self) -> AtOnce:
        """Post more chats than two workers have slots; every slot is to be taken, and no more."""
        slots = _AT_ONCE_JOBS * _AT_ONCE_WORKERS
        print(f"{slots} slots on {_AT_ONCE_WORKERS} workers …", flush=True)
        async with self._workers(processes.worker(), _AT_ONCE_WORKERS, _AT_ONCE_JOBS):
            await self._warm_up()
            self._upstream.hold()
            began = time.perf_counter()
            posting = asyncio.create_task(self._fill(slots + _TOO_MANY))
            try:
                await self._upstream.until_open(slots)
                seconds = time.perf_counter() - began
                posted = await posting
                await self._beats(2)  # a worker that would start one too many has polled by then
                at_once = self._upstream.open
            finally:
                posting.cancel()
                self._upstream.release()
            faults = await self._faults(posted)
        if at_once != slots:
            faults.append(f"{at_once} chats ran at once, not {slots}")
        return AtOnce(_AT_ONCE_WORKERS, _AT_ONCE_JOBS, len(posted), at_once, seconds, faults)

    @contextlib.asynccontextmanager
    async def _workers(self, command: Sequence[str], count: int, max_jobs: int) -> AsyncIterator[None]:
        environment = self._environment | {"PIROPIRO_MAX_JOBS": str(max_jobs)}
        await self._redis.delete(_REGISTERED)
        async with contextlib.AsyncExitStack() as stack:
            for number in range(1, count + 1):

                async def has_registered(number: int = number) -> bool:
                    return int(await self._redis.zcard(_REGISTERED)) >= number

                await stack.enter_async_context(
                    processes.running(
                        "the worker", command, environment, self._directory / "worker.log", has_registered
                    )
                )
            yield

    async def _beats(self, count: int) -> None:
        """Wait until every worker has given `count` more signs of life; it polls as often as it gives one."""
        for _ in range(count):
            before = set(await self._redis.zrange(_REGISTERED, 0, -1, withscores=True))
            async with asyncio.timeout(_BEAT_PATIENCE):
                while before & set(await self._redis.zrange(_REGISTERED, 0, -1, withscores=True)):  # noqa: ASYNC110  # no event tells
                    await asyncio.sleep(_BEAT_LOOK)

    async def _measure(self, situation: Situation) -> Row:
        print(f"{situation.title}: {situation.chats} chats …", flush=True)
        await self._warm_up()
        self._upstream.hold(situation.pace)
        held = await self._fill(situation.held)
        await self._upstream.until_open(situation.held)
        open_before = self._upstream.open
        try:
            rung = self._rung
            posted, _ = await asyncio.gather(self._arrive(situation), self._ring(situation))
            await self._monitor.until_ended(chat.chat_id for chat in posted)
            open_after = self._upstream.open
        finally:
            self._upstream.release()
        faults = await self._faults(posted)
        await self._monitor.until_ended(chat.chat_id for chat in held)
        if (open_before, open_after) != (situation.held, situation.held):
            faults.append(f"{open_before} to {open_after} jobs were in progress, not {situation.held}")
        row = self._row(situation, posted, range(rung + 1, self._rung + 1), faults)
        for fault in faults[:3]:
            print(f"  wrong: {fault}", flush=True)
        return row

    async def _warm_up(self) -> None:
        """Unmeasured chats: scripts are loaded, connections open, code paths warm."""
        posted = [await self._client.post(self._label("warm up")) for _ in range(_WARM_UP)]
        await self._monitor.until_ended(chat.chat_id for chat in posted)

    async def _fill(self, count: int) -> list[Posted]:
        """Post chats to hold, as fast as the API takes them."""
        few = asyncio.Semaphore(_POSTING)

        async def post() -> Posted:
            async with few:
                return await self._client.post(self._label(HOLD))

        return await asyncio.gather(*(post() for _ in range(count)))

    async def _arrive(self, situation: Situation) -> list[Posted]:
        """Post the chats at random moments, whether those before have been answered or not."""
        post, moments = self._client.post, self._moments(situation)
        tasks = [asyncio.create_task(post(self._label("chat"))) async for _ in moments]
        return await asyncio.gather(*tasks)

    async def _ring(self, situation: Situation) -> None:
        """Ring the yardstick's bell as often as chats arrive, but at other moments."""
        async for _ in self._moments(situation):
            self._rung += 1
            await self._redis.rpush(echo.BELL, self._rung)  # type: ignore[misc]  # redis-py types two clients at once

    async def _moments(self, situation: Situation) -> AsyncIterator[None]:
        due = time.perf_counter()
        for _ in range(situation.chats):
            due += self._rng.expovariate(situation.rate)
            await asyncio.sleep(due - time.perf_counter())
            yield

    def _label(self, kind: str) -> str:
        self._posted += 1
        return f"{kind} {self._posted}"

    async def _faults(self, posted: Sequence[Posted]) -> list[str]:
        """What is wrong with these chats, which were to be answered in full, in one attempt."""
        await self._monitor.until_ended(chat.chat_id for chat in posted)
        faults = []
        for chat in posted:
            answer = await self._client.read(chat.chat_id)
            text = "" if chat.label.startswith(HOLD) else ANSWER
            if (answer["status"], answer["text"], answer["attempts"]) != ("done", text, 1):
                faults.append(f"a chat ended as {answer['status']} in attempt {answer['attempts']}: {answer['error']}")
            elif self._upstream.requests.get(chat.label) != 1:
                faults.append(f"the upstream got a chat {self._upstream.requests.get(chat.label, 0)} times")
        return faults

    def _row(self, situation: Situation, posted: Sequence[Posted], rung: range, faults: list[str]) -> Row:
        seen = [self._monitor.chats[chat.chat_id] for chat in posted if chat.chat_id in self._monitor.chats]
        seen.sort(key=lambda chat: chat.enqueued)
        alone = [chat for before, chat in pairwise(seen) if chat.enqueued - before.enqueued > 1000 * ALONE]
        moments = [(chat.enqueued, chat.taken, chat.looked_up, chat.started) for chat in seen]
        arrivals = self._upstream.arrivals
        return Row(
            situation,
            _differences((chat.enqueued, chat.started) for chat in seen),
            _differences((chat.enqueued, chat.started) for chat in alone),
            [_differences((row[i], row[i + 1]) for row in moments) for i in range(3)],
            sorted(self._monitor.echoes[number] / 1000 for number in rung if number in self._monitor.echoes),
            sorted(1000 * (arrivals[chat.label] - chat.sent) for chat in posted if chat.label in arrivals),
            faults,
        )


def _differences(pairs: Iterable[tuple[int | None, int | None]]) -> list[float]:
    return sorted((after - before) / 1000 for before, after in pairs if before is not None and after is not None)
