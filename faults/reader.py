"""One reader: it follows a chat as the protocol's page tells clients to, and cuts its own connection at random."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from urllib.parse import quote

from faults import http
from faults.chats import ReaderPlan
from faults.evidence import View
from faults.settings import KEEPALIVE
from faults.sse import Event, Parser
from faults.tally import Tally

SILENCE = 2 * KEEPALIVE + 1
"""Seconds without a byte, keep-alives included, after which a connection counts as dead."""

_TERMINALS = ("done", "error", "cancelled")
_LONGEST_WAIT = 1.0
_SLOW_BUFFER = 2048
_CUTS = 25
"""Connections that a reader cuts itself at most; a long chat would never end for it else."""
_CHECKS_END = 0.3
"""Share of the readers that come back once more after the end, which is to be answered 204."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The ports at which clients find the API."""

    ports: tuple[int, ...]

    def pick(self, random: Random) -> int:
        """Any of them, as a load balancer would."""
        return random.choice(self.ports)

    def some(self, count: int, random: Random) -> list[int]:
        """So many different ones, or all there are."""
        return random.sample(self.ports, min(count, len(self.ports)))


class Backoff:
    """Waits before a retry: longer each time, until something went well."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._wait = 0.1

    def reset(self) -> None:
        self._wait = 0.1

    async def pause(self) -> None:
        await asyncio.sleep(self._wait * self._random.uniform(0.5, 1.0))
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


class Reader:
    """Reads one chat to its end, over as many connections as it takes.

    The chat is either known by its id, or created by this reader's own POST of `body` with `headers`; `on_created` is
    told its id then.
    """

    def __init__(
        self,
        plan: ReaderPlan,
        view: View,
        replicas: Replicas,
        random: Random,
        tally: Tally,
        *,
        body: bytes,
        headers: dict[str, str],
        chat_id: str | None = None,
        on_created: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.view = view
        self.connected_at = 0.0
        self.ended_at = 0.0
        self._plan = plan
        self._replicas = replicas
        self._random = random
        self._tally = tally
        self._body = body
        self._headers = headers
        self._chat_id = chat_id
        self._on_created = on_created
        self._last: str | None = None
        self._cuts = 0
        self._backoff = Backoff(random)

    async def run(self) -> None:
        """Read until the terminal event; ends otherwise only by cancellation."""
        await self._insist(self._read_some)
        if self._random.random() < _CHECKS_END:
            await self._insist(self._come_back)

    async def _insist(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                is_over = await attempt()
            except http.FAILURES as error:
                self._note(f"broken: {error!r}")
                is_over = False
            if is_over:
                return
            await self._backoff.pause()

    async def _read_some(self) -> bool:
        """One connection, until it breaks, we cut it, or the chat's end has come: True then."""
        if self.view.is_ended:  # and the connection broke before it was closed
            return True
        port = self._replicas.pick(self._random)
        method, path, headers, body = self._request()
        self._note(f"{method} {path} at {port}, after {self._last}")
        self._tally.resumes += self._last is not None
        buffer = _SLOW_BUFFER if self._plan.pause else None
        async with http.request(
            port, method, path, headers=headers, body=body, silence=SILENCE, buffer=buffer
        ) as answer:
            if answer.status != 200:
                return self._take_refusal(answer)
            if self._chat_id is None:
                self._chat_id = answer.headers.get("x-chat-id", "")
                self._on_created(self._chat_id)
            self.connected_at, began = time.monotonic(), time.time()
            try:
                return await self._follow(answer)
            finally:
                self.view.connections.append((began, time.time()))

    def _request(self) -> tuple[str, str, dict[str, str], bytes]:
        """Create, if the chat is not known yet; else resume as planned, with the cursor if there is one."""
        query = f"?format={self._plan.format}"
        if self._chat_id is None:
            return "POST", f"/v1/chat/stream{query}", self._headers, self._body
        path = f"/v1/chats/{self._chat_id}/stream{query}"
        if self._last is None:
            return "GET", path, {}, b""
        match self._plan.resumes_by:
            case "post":
                return "POST", f"/v1/chat/stream{query}", {**self._headers, "Last-Event-ID": self._last}, self._body
            case "after":
                return "GET", f"{path}&after={quote(self._last)}", {}, b""
            case _:
                return "GET", path, {"Last-Event-ID": self._last}, b""

    async def _follow(self, answer: http.Answer) -> bool:
        parser, plan = Parser(), self._plan
        left = float("inf")
        if plan.cut_every is not None and self._cuts < _CUTS:
            left = self._random.expovariate(1 / plan.cut_every)
        async for piece in answer.pieces(_SLOW_BUFFER if plan.pause else 65_536):
            # A cut falls anywhere, also in the middle of an event.
            for event in parser.feed(piece[: max(0, int(min(left, len(piece))))]):
                self._take(event)
            left -= len(piece)
            if left <= 0 and not self.view.is_ended:
                self._cuts += 1
                self._note("cut by the reader")
                return False
            if plan.pause:
                await asyncio.sleep(plan.pause)
        if not self.view.is_ended:
            self._note("ended without a terminal event")
        return self.view.is_ended

    def _take(self, event: Event) -> None:
        if event.id is None and event.name == "queued":
            if not isinstance(json.loads(event.data).get("position"), int):
                self.view.refusals.append(f"a place in the queue: {event.data}")
            return
        self.view.events.append(event)
        if event.id is not None:
            self._last = event.id
        self._backoff.reset()
        if event.name in _TERMINALS:
            self.view.is_ended = True
            self.ended_at = time.monotonic()

    def _take_refusal(self, answer: http.Answer) -> bool:
        self._tally.answers[answer.status] += 1
        self._note(f"answered {answer.status}")
        if answer.status >= 500 or answer.status == 429:
            return False
        self.view.refusals.append(f"{answer.status} after {self._last}")
        return True

    async def _come_back(self) -> bool:
        """Ask for what follows the end: there is nothing."""
        port = self._replicas.pick(self._random)
        path = f"/v1/chats/{self._chat_id}/stream?after={quote(self._last or '')}"
        async with http.request(port, "GET", path) as answer:
            if answer.status >= 500:
                return False
            if answer.status != 204:
                self.view.refusals.append(f"{answer.status} where 204 says that it is over")
            return True

    def _note(self, text: str) -> None:
        self.view.note(f"{time.time():.3f} {text}")
