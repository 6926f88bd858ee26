"""All clients of one chat: who creates it, who reads it, who cancels it; and the collecting of what came of it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from faults import http
from faults.chats import CancelPlan, ChatPlan
from faults.evidence import TERMINAL_ID, Evidence, View
from faults.reader import Backoff, Reader, Replicas
from faults.sse import Event, Parser
from faults.stack import Stack, log_entries, log_key
from faults.tally import Tally

_POST_SILENCE = 6.0
_LOOK = 0.2
COLLECTING = 60.0
"""Seconds that reading everything once more may take at least; before the world gives up it may take longer."""


@dataclass(frozen=True)
class World:
    """What a chat's clients stand in. `run` names the campaign; `give_up` is when all must be over (monotonic)."""

    stack: Stack
    tally: Tally
    run: str
    seed: int
    give_up: float
    is_resumable: bool = False
    """The upstream speaks Responses."""

    @property
    def replicas(self) -> Replicas:
        """Where clients find the API: through the proxy."""
        return Replicas(tuple(replica.proxied_port for replica in self.stack.replicas))


class Clients:
    """Everyone who has to do with one chat."""

    def __init__(self, plan: ChatPlan, world: World) -> None:
        self.evidence = Evidence(plan, is_resumable=world.is_resumable)
        self._plan = plan
        self._world = world
        self._random = Random(f"{world.seed}/clients/{plan.number}")
        self._body = plan.body(world.run)
        self._headers = {
            "X-Piropiro-On-Worker-Loss": plan.on_worker_loss,
            "X-Piropiro-On-Disconnect": plan.on_disconnect,
            **({"Idempotency-Key": f"{world.run}/{plan.label}"} if plan.is_keyed else {}),
        }
        self._chat_id: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._readers: list[Reader] = []
        self._cancel_sent: float | None = None
        self._stays: set[asyncio.Timeout] = set()
        self._upstream = world.stack.simulator.pid

    async def run(self) -> Evidence:
        """Create, read, cancel; then collect. Whoever is not through when the world gives up is left as it is."""
        plan = self._plan
        tasks = [self._create()] if not plan.is_streamed else []
        tasks += [self._read(index) for index in range(len(plan.readers))]
        if plan.echo is not None:
            tasks.append(self._echo(plan.echo))
        if plan.cancel is not None:
            tasks.append(self._cancel(plan.cancel))
        if plan.left is not None:
            tasks.append(self._leave(plan.left))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._world.give_up - time.monotonic()):
                async with asyncio.TaskGroup() as group:
                    for task in tasks:
                        group.create_task(task)
        self._measure_cancel()
        if self.evidence.chat_id is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(COLLECTING, self._world.give_up - time.monotonic())):
                    await self._collect(self.evidence.chat_id)
        return self.evidence

    def _know(self, chat_id: str) -> None:
        """A POST was answered with this id."""
        self.evidence.posted_ids.append(chat_id)
        if not self._chat_id.done():
            self.evidence.chat_id = chat_id
            self._chat_id.set_result(chat_id)

    async def _create(self) -> None:
        """POST until it is accepted; without an idempotency key, a lost answer leaves a chat that nobody reads."""
        backoff = Backoff(self._random)
        while not await self._post():
            self._world.tally.retried_posts += 1
            await backoff.pause()

    async def _echo(self, after: float) -> None:
        """The same POST once more, as a client does that gave up waiting for the first."""
        await asyncio.sleep(after)
        await self._create()

    async def _post(self) -> bool:
        port = self._world.replicas.pick(self._random)
        try:
            async with http.request(
                port, "POST", "/v1/chats", headers=self._headers, body=self._body, silence=_POST_SILENCE
            ) as answer:
                if answer.status == 202:
                    self._know((await answer.json())["id"])
                    return True
        except http.FAILURES:
            return False
        self._world.tally.answers[answer.status] += 1
        return False

    async def _read(self, index: int) -> None:
        plan = self._plan.readers[index]
        is_creator = self._plan.is_streamed and index == 0
        view = View(f"reader {index}", plan.format)
        self.evidence.views.append(view)
        self._world.tally.readers += 1
        if not is_creator:
            await self._chat_id
            await asyncio.sleep(plan.delay)
        reader = Reader(
            plan,
            view,
            self._world.replicas,
            Random(f"{self._world.seed}/reader/{self._plan.number}/{index}"),
            self._world.tally,
            body=self._body,
            headers=self._headers,
            chat_id=None if is_creator else self._chat_id.result(),
            on_created=self._know,
        )
        self._readers.append(reader)
        if self._plan.left is not None:
            await self._stay(reader)
        await reader.run()

    async def _stay(self, reader: Reader) -> None:
        """Read until all readers leave; return when the chat has ended."""
        if self.evidence.left_at is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None) as stay:
                    self._stays.add(stay)
                    try:
                        await reader.run()
                    finally:
                        self._stays.remove(stay)
            self.evidence.left_at = time.time()
        key = log_key(await self._chat_id)
        is_ended = ("XRANGE", key, TERMINAL_ID, "+")
        while not (await self._world.stack.redis.insist(is_ended))[0]:  # noqa: ASYNC110  # only Redis knows
            await asyncio.sleep(_LOOK)

    async def _leave(self, after: float) -> None:
        """Let all readers leave for good; whoever comes later waits for the chat's end."""
        await asyncio.shield(self._chat_id)
        await asyncio.sleep(after)
        for stay in list(self._stays):
            stay.reschedule(asyncio.get_running_loop().time())

    async def _cancel(self, plan: CancelPlan) -> None:
        chat_id = await asyncio.shield(self._chat_id)
        await asyncio.sleep(plan.after)
        self._cancel_sent = time.monotonic()
        first = self._world.replicas.some(plan.times, self._random)
        await asyncio.gather(*(self._insist_on_cancel(chat_id, port) for port in first))

    async def _insist_on_cancel(self, chat_id: str, port: int) -> None:
        backoff = Backoff(self._random)
        while True:
            self.evidence.cancels_sent += 1
            try:
                async with http.request(port, "POST", f"/v1/chats/{chat_id}/cancel", silence=_POST_SILENCE) as answer:
                    if answer.status == 200:
                        self.evidence.cancel_statuses.append((await answer.json())["status"])
                        return
                    self._world.tally.answers[answer.status] += 1
                    if answer.status < 500:
                        self.evidence.cancel_statuses.append(f"answered {answer.status}")
                        return
            except http.FAILURES:
                pass
            port = self._world.replicas.pick(self._random)
            await backoff.pause()

    def _measure_cancel(self) -> None:
        """How long the first follower waited for `cancelled`, if it was connected all the while."""
        sent = self._cancel_sent
        if sent is None:
            return
        seen = [
            reader.ended_at - sent
            for reader in self._readers
            if reader.view.is_ended
            and reader.view.events[-1].name == "cancelled"
            and reader.connected_at < sent < reader.ended_at
        ]
        if seen:
            self._world.tally.cancels.append(min(seen))

    async def _collect(self, chat_id: str) -> None:
        """The log, the replay and the description, as they are when all readers are through."""
        evidence, stack, key = self.evidence, self._world.stack, f"piropiro:{{{chat_id}}}:chat"
        rows, failures = await stack.redis.insist(("XRANGE", log_key(chat_id), "-", "+"), ("HGET", key, "failures"))
        evidence.entries = log_entries(rows)
        evidence.failures = int(failures or 0)
        if evidence.is_final:
            evidence.replay = await self._replay(chat_id)
            evidence.chat = await self._get(lambda port: _describe(port, chat_id))
        name = f"{self._world.run}/{self._plan.label}"
        if self._plan.is_keyed or self._plan.failing_requests or self._world.is_resumable:
            requests = await self._get(lambda _: stack.upstream_requests(name))
            responses = await self._get(lambda _: stack.upstream_responses(name))
            # The simulator forgets requests sooner than their number; but when it dies, it forgets everything.
            if self._upstream is not None and self._upstream == stack.simulator.pid:
                evidence.requests = max((request["retry"] + 1 for request in requests), default=None)
                evidence.responses = len(responses) if self._world.is_resumable else None

    async def _replay(self, chat_id: str) -> list[Event]:
        events: list[Event] = await self._get(lambda port: _read_whole(port, chat_id))
        return events

    async def _get(self, ask: Callable[[int], Any]) -> Any:
        """Ask any replica, directly, until one answers."""
        backoff = Backoff(self._random)
        while True:
            try:
                return await ask(self._random.choice(self._world.stack.replicas).port)
            except http.FAILURES:
                await backoff.pause()


async def _read_whole(port: int, chat_id: str) -> list[Event]:
    async with http.request(port, "GET", f"/v1/chats/{chat_id}/stream?format=json") as answer:
        if answer.status != 200:
            raise http.Broken(f"answered {answer.status}")
        parser = Parser()
        events = [event async for piece in answer.pieces() for event in parser.feed(piece)]
        if not events or events[-1].name not in ("done", "error", "cancelled"):
            raise http.Broken("no terminal event")
        return events


async def _describe(port: int, chat_id: str) -> dict[str, Any]:
    async with http.request(port, "GET", f"/v1/chats/{chat_id}") as answer:
        if answer.status != 200:
            raise http.Broken(f"answered {answer.status}")
        chat: dict[str, Any] = await answer.json()
        return chat
