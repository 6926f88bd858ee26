"""A crowd of clients: so many chats at any time, whose readers lose nothing and double nothing, come what may."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from faults.chats import ChatPlan, ReaderPlan
from faults.clients import Clients, World
from faults.evidence import Evidence
from faults.stack import Stack
from faults.tally import Tally

INTERVAL = 0.2
_SHORTEST, _LONGEST = 20, 60
_CUT_EVERY = 1500
_POLL = 0.1
_NEARLY_ALL = 0.9
"""Of the seats: some are always between two chats."""


@dataclass(frozen=True)
class Result:
    """What a scenario found."""

    table: str
    is_good: bool


@dataclass
class Crowd:
    """Every seat's clients create a chat, read it to its end, and create the next.

    `take` is given the evidence of each chat that is over.
    """

    world: World
    seats: int
    take: Callable[[Evidence], object]
    _numbers: "count[int]" = field(default_factory=count)
    _is_leaving: bool = False

    @asynccontextmanager
    async def reading(self, *beside: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Everybody reads while the context is open, and leaves at its end; `beside` runs as long as the body does."""
        observing = [asyncio.create_task(task) for task in beside]
        seats = [asyncio.create_task(self._sit()) for _ in range(self.seats)]
        try:
            while await running(self.world.stack) < _NEARLY_ALL * self.seats:  # noqa: ASYNC110  # only Redis knows
                await asyncio.sleep(_POLL)
            yield
            await _end(observing)
            self._is_leaving = True
            await asyncio.gather(*seats)
        finally:
            await _end([*observing, *seats])

    async def _sit(self) -> None:
        while not self._is_leaving:
            plan = make_chat(self.world.seed, next(self._numbers))
            self.world.tally.chats += 1
            self.take(await Clients(plan, self.world).run())
            self.world.tally.ended += 1


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def running(stack: Stack) -> int:
    """How many chats the workers have."""
    (length,) = await stack.redis.insist(("HLEN", "piropiro:running"))
    return int(length)


def make_chat(seed: int, number: int) -> ChatPlan:
    """A chat of 4 to 12 seconds with two readers, one of whom cuts its own connections."""
    random = Random(f"{seed}/crowd/{number}")
    length = random.randint(_SHORTEST, _LONGEST)
    return ChatPlan(
        number=number,
        at=0.0,
        deltas=tuple(f"{position}ピロ " for position in range(length)),
        ttft=round(random.uniform(0.0, INTERVAL), 3),
        interval=INTERVAL,
        fault=None,
        on_worker_loss="restart",
        on_disconnect="keep",
        is_keyed=True,
        is_streamed=random.random() < 0.5,
        echo=None,
        cancel=None,
        readers=(_reader(random, None), _reader(random, _CUT_EVERY)),
    )


def _reader(random: Random, cut_every: int | None) -> ReaderPlan:
    return ReaderPlan(
        format=random.choice(("text", "json")),
        delay=0.0,
        cut_every=cut_every,
        pause=0.0,
        resumes_by=random.choice(("header", "after", "post")),
    )


def restarts(evidence: Evidence) -> int:
    """Attempts beyond the first."""
    return max(0, sum(value[:1] in (b"S", b"R") for _, value in evidence.entries) - 1)


def answers(tally: Tally) -> str:
    """What clients were answered other than success, by status."""
    return ", ".join(f"{number} times {status}" for status, number in sorted(tally.answers.items()) if number) or "none"
