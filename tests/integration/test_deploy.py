"""A deploy behind HAProxy: replicas and workers are replaced one by one while clients read, post and resume."""

import asyncio
import contextlib

import httpx
import pytest
from harness.balancer import balancing
from harness.client import Client, body, numbered
from harness.fixtures import LIMITS, PATIENCE
from harness.polling import wait_until
from harness.programs import NEEDS_HAPROXY
from harness.sse import Event, json_text_of, raw_of

pytestmark = NEEDS_HAPROXY

CHATS = 20
API_GRACE = 7.0
WORKER_GRACE = 5.0
DRAIN = 20
DELTAS = numbered(100)
INTERVAL = 0.1
_PAUSE = 0.05


class Visitor:
    """Posts a chat and reads it to its end through the balancer, as often as it is cut."""

    def __init__(self, client: Client, simulator_key: str):
        self.chat_id = ""
        self.events: list[Event] = []
        self.statuses = set[int]()
        self.resumes = 0
        self._client = client
        self.key = simulator_key

    @property
    def is_reading(self) -> bool:
        return len(self.events) >= 5

    async def visit(self) -> "Visitor":
        await self._create()
        while not (self.events and self.events[-1].is_terminal):
            with contextlib.suppress(httpx.TransportError):
                await self._read()
        return self

    async def _create(self) -> None:
        posted = body({"key": self.key, "deltas": DELTAS, "interval": INTERVAL})
        while not self.chat_id:
            with contextlib.suppress(httpx.TransportError):
                headers = {"Idempotency-Key": self.key}
                answer = await self._client.http.post("/v1/chats", json=posted, headers=headers)
                self.statuses.add(answer.status_code)
                if answer.status_code == 202:
                    self.chat_id = answer.json()["id"]
                    return
            await asyncio.sleep(_PAUSE)

    async def _read(self) -> None:
        cursor = self.events[-1].id if self.events else None
        self.resumes += cursor is not None
        before = self.events
        async with self._client.following(self.chat_id, form="json", cursor=cursor) as reading:
            self.statuses.add(reading.status)
            if reading.status != 200:
                await asyncio.sleep(_PAUSE)
                return
            try:
                await reading.until(lambda reading: self._take(before, reading.events))
            except StopAsyncIteration:
                return  # the stream ended; if without a terminal event, there is more to read

    def _take(self, before: list[Event], new: list[Event]) -> bool:
        self.events = before + [event for event in new if event.id]
        return bool(self.events) and self.events[-1].is_terminal


@pytest.fixture
def stack(start_stack):
    return start_stack(apis=2, workers=2, drain=DRAIN)


@pytest.fixture
def balancer(stack, tmp_path):
    with balancing(tmp_path, [api.port for api in stack.apis]) as balancer:
        yield balancer


@contextlib.asynccontextmanager
async def visiting(balancer, key):
    """So many visitors, each with connections of its own, all of them reading."""
    async with contextlib.AsyncExitStack() as leaving, asyncio.TaskGroup() as group:
        visitors, visits = [], []
        for number in range(CHATS):
            http = httpx.AsyncClient(base_url=balancer.url, timeout=PATIENCE, limits=LIMITS)
            visitors.append(Visitor(Client(await leaving.enter_async_context(http)), f"{key}-{number}"))
            visits.append(group.create_task(visitors[-1].visit()))
        await wait_until(lambda: all(visitor.is_reading for visitor in visitors))
        yield visitors
        await asyncio.gather(*visits)


async def assert_nothing_lost(visitors, api, simulator):
    """Everybody has the whole of one chat, which was generated once."""
    for visitor in visitors:
        assert raw_of(visitor.events) == (await api.read(visitor.chat_id, form="json")).received
        assert json_text_of(visitor.events) == "".join(DELTAS)
        assert (await api.chat(visitor.chat_id))["attempts"] == 1
        assert len(await simulator.requests(visitor.key)) == 1


@pytest.mark.parametrize("how", ["told to stop", "killed"])
async def test_replacing_every_replica_costs_readers_nothing(stack, balancer, connect, simulator, key, how):
    async with visiting(balancer, key) as visitors:
        for api in list(stack.apis):
            if how == "killed":
                api.process.kill()
            else:
                assert await api.process.terminate(within=API_GRACE) in (0, -15)
            stack.apis.remove(api)
            stack.start_api(api.port)
            await wait_until(lambda: balancer.states() == ["UP", "UP"])
    assert sum(visitor.resumes for visitor in visitors) >= CHATS / 4
    assert set.union(*(visitor.statuses for visitor in visitors)) <= {200, 202, 502, 503}
    await assert_nothing_lost(visitors, connect(stack.apis[0].url), simulator)


async def test_replacing_every_worker_restarts_no_chat(stack, balancer, connect, simulator, key):
    api = connect(stack.apis[0].url)
    for number, worker in enumerate(list(stack.workers)):
        async with visiting(balancer, f"{key}-{number}") as visitors:
            assert await worker.terminate(within=DRAIN + WORKER_GRACE) == 0
            stack.workers.remove(worker)
            stack.start_worker()
        assert sum(visitor.resumes for visitor in visitors) == 0
        await assert_nothing_lost(visitors, api, simulator)
        await wait_until(lambda: is_ready(api))


async def is_ready(api):
    return (await api.http.get("/readyz")).json().get("workers") == 2
