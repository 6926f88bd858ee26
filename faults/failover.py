"""What failovers cost: sentinels put a replica in the master's place, again and again, while clients read."""

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random

from faults.checker import Finding, check
from faults.clients import World
from faults.crowd import Crowd, Result, answers, restarts
from faults.evidence import Evidence, View, to_json
from faults.probe import probe
from faults.processes import Place, free_port
from faults.report import counts, latencies, table
from faults.resp import Redis, Unavailable
from faults.sse import Event
from faults.stack import Server, Stack, StartFailed, redis_place, running_stack, server_binary
from faults.tally import Tally

CHATS = 50
APIS, WORKERS = 2, 2
ROUNDS = 2
_LAG = 1.0
"""Seconds of writes that are lost where the replica lags."""

_CALM = 5.0
"""Seconds between failovers, at least."""

_SENTINELS = 3
_SERVICE = "main"
_DOWN_AFTER_MS = 1000
_TIMEOUT = 30.0
_PATIENCE = 600.0
_SETTLE = 30.0
_POLL = 0.02
_TOLD = ("404", "410")


@dataclass
class Node:
    """One of the two servers."""

    place: Place
    port: int
    redis: Redis

    async def replication(self) -> dict[str, str]:
        """What it says of its part; empty if it does not answer."""
        try:
            info: bytes = await self.redis.call("INFO", "replication")
        except Unavailable:
            return {}
        return dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)


@dataclass
class Pair:
    """A master, its replica, and the sentinels that watch them."""

    master: Node
    replica: Node
    sentinels: dict[int, Redis]

    @property
    def url(self) -> str:
        """Where the product asks for the master."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/{_SERVICE}/0"

    async def is_linked(self) -> bool:
        """Whether the replica has all that the master had just now."""
        ours, theirs = await self.master.replication(), await self.replica.replication()
        if theirs.get("master_link_status") != "up" or theirs["master_port"] != str(self.master.port):
            return False
        return int(theirs["slave_repl_offset"]) >= int(ours["master_repl_offset"])

    async def is_watched(self) -> bool:
        """Whether every sentinel knows the others, the master and its replica, and that all are well."""
        try:
            states = [await redis.call("SENTINEL", "MASTER", _SERVICE) for redis in self.sentinels.values()]
        except Unavailable:
            return False
        masters = [dict(zip(state[::2], state[1::2], strict=True)) for state in states]
        expected = {b"num-other-sentinels": b"%d" % (_SENTINELS - 1), b"num-slaves": b"1", b"flags": b"master"}
        return all(master.items() >= expected.items() for master in masters)

    async def is_over(self) -> bool:
        """Whether the replica is the master, and every sentinel says so."""
        addresses = [
            await redis.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", _SERVICE) for redis in self.sentinels.values()
        ]
        replication = await self.replica.replication()
        return replication.get("role") == "master" and all(int(port) == self.replica.port for _, port in addresses)

    async def is_settled(self) -> bool:
        """Whether both are well and watched, in the roles that the sentinels gave them: they may change their mind."""
        if await self.is_over():
            self.master, self.replica = self.replica, self.master
        return await self.is_linked() and await self.is_watched()

    async def cut_replication(self) -> None:
        """Let the replica have what there is, and nothing that comes."""
        await self.master.redis.call("ACL", "SETUSER", "default", "-psync", "-sync")
        await self.master.redis.call("CLIENT", "KILL", "TYPE", "replica")

    async def killed(self) -> None:
        """Kill the master, and bring it back as a replica when the replica is the master."""
        await self.master.place.kill()
        await until(self.is_over)
        await self.master.place.start()

    async def lagged(self) -> None:
        """The same, and the replica lacks the last second."""
        await until(self.is_linked)
        await self.cut_replication()
        await asyncio.sleep(_LAG)
        await self.killed()

    async def hung(self) -> None:
        """Stop the master until the replica is in its place; it wakes up and still believes to be the master."""
        hanging = asyncio.create_task(self.master.place.pause(_TIMEOUT))
        try:
            await until(self.is_over)
        finally:
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)


KINDS: dict[str, Callable[[Pair], Awaitable[None]]] = {
    "killed": Pair.killed,
    f"killed, its replica {_LAG:g} s behind": Pair.lagged,
    "hung, then a replica": Pair.hung,
}


@dataclass
class Failover:
    """What came of it. `told`: chats whose readers were told by a 404 or 410 that something is lost."""

    tally: Tally = field(default_factory=Tally)
    findings: list[Finding] = field(default_factory=list)
    promotions: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    told: Counter[str] = field(default_factory=Counter)
    again: int = 0
    """Chats generated once more than their log shows attempts: Redis forgot one."""

    forgotten_ends: int = 0
    """Chats whose end was delivered and then forgotten: they run, or ran, once more."""

    left: int = 0
    """Chats without an end when all clients have left."""

    seconds: float = 0.0

    def take(self, evidence: Evidence) -> list[Finding]:
        """Judge a chat that is over: every reader has all of an answer, or was told that something is lost."""
        told = {refusal[:3] for view in evidence.views for refusal in view.refusals} & set(_TOLD)
        if told:
            self.told[min(told)] += 1
            return []
        attempts = 1 + restarts(evidence)
        self.again += evidence.requests is not None and evidence.requests > attempts
        if all(has_all(view, evidence.plan.answer) for view in evidence.views) and not _is_over(evidence):
            self.forgotten_ends += 1
            return []
        self.tally.restarts += attempts - 1
        found = check(evidence)
        self.findings += found
        return found

    @property
    def is_good(self) -> bool:
        return not self.findings and not self.left

    def table(self) -> str:
        tally = self.tally
        return table(
            [
                ("chats", f"{tally.chats} in {self.seconds:.0f} s"),
                ("readers", f"{tally.readers}"),
                ("resumes", f"{tally.resumes}"),
                ("repeated POSTs", f"{tally.retried_posts}"),
                *((f"failover, master {kind}", latencies(times)) for kind, times in self.promotions.items()),
                ("errors that clients saw", answers(tally)),
                ("503 to a POST", latencies(tally.unavailable)),
                *((f"**{column}**", f"**{number}**") for column, number in counts(self.findings).items()),
                ("restarts, as readers saw them", f"{tally.restarts}"),
                ("generated once more, an attempt was forgotten", f"{self.again}"),
                ("end delivered, then forgotten", f"{self.forgotten_ends}"),
                ("lost and told by 410", f"{self.told['410']}"),
                ("lost and told by 404", f"{self.told['404']}"),
                ("**without an end when all have left**", f"**{self.left}**"),
            ]
        )


async def run(folder: Path, *, seats: int = CHATS, rounds: int = ROUNDS) -> Result:
    """Fail over under load, in every way, `rounds` times.

    Raises:
        StartFailed: something did not start.
    """
    async with (
        sentinels(folder) as pair,
        running_stack(
            folder,
            Random(1),
            apis=APIS,
            workers=WORKERS,
            is_proxied=False,
            server=Server(pair.master.place, pair.master.port, pair.url),
        ) as stack,
    ):
        began = time.monotonic()
        failover = Failover()
        world = World(stack, failover.tally, "failover", 1, began + _PATIENCE)

        def take(evidence: Evidence) -> None:
            if found := failover.take(evidence):
                content = {"findings": list(map(str, found)), "evidence": to_json(evidence)}
                (folder / f"{evidence.plan.label}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))

        crowd = Crowd(world, seats, take)
        async with crowd.reading(probe(stack, failover.tally)):
            for kind, happen in [*KINDS.items()] * rounds:
                await asyncio.sleep(_CALM)
                failover.promotions[kind].append(await _fail_over(stack, pair, happen))
        failover.seconds = time.monotonic() - began
        failover.left = await _settle(stack)
        crashes = [crash for place in stack.places[1:] for crash in place.crashes]
    problems = [*map(str, failover.findings[:50]), *crashes]
    return Result("\n".join([failover.table(), *problems]), failover.is_good and not crashes)


async def _settle(stack: Stack) -> int:
    """Wait until every chat has ended, but not for ever; how many have not."""
    give_up = time.monotonic() + _SETTLE
    while True:
        waiting, running = await stack.redis.insist(("ZCARD", "piropiro:waiting"), ("HLEN", "piropiro:running"))
        if not waiting + running or time.monotonic() > give_up:
            return int(waiting + running)
        await asyncio.sleep(_POLL)


def _is_over(evidence: Evidence) -> bool:
    """Whether the log's attempt that ended is the one that the readers saw end."""
    shown = {f"{evidence.chat_id}:{entry_id}" for entry_id, _ in evidence.entries}
    return evidence.is_final and all(event.id in shown for view in evidence.views for event in view.events if event.id)


def has_all(view: View, answer: str) -> bool:
    """Whether a reader has a whole answer, each event once and in order."""
    text, ids = "", [_place(event) for event in view.events]
    for event in view.events:
        if event.name == "restart":
            text = ""
        elif event.name == "delta":
            text += json.loads(event.data).get("content") or ""
        elif not event.name:
            text += event.data
    is_ordered = all(before < after for before, after in pairwise(ids))
    return view.is_ended and is_ordered and text == answer


def _place(event: Event) -> tuple[int, int]:
    attempt, _, seq = (event.id or "").rpartition(":")[2].partition("-")
    return int(attempt), int(seq)


async def _fail_over(stack: Stack, pair: Pair, happen: Callable[[Pair], Awaitable[None]]) -> float:
    """Let it happen, and wait until both servers are well again; the seconds until there was a new master."""
    began = time.monotonic()
    watching = asyncio.create_task(_time_of(pair))
    await happen(pair)
    took = await watching - began
    pair.master, pair.replica = pair.replica, pair.master
    stack.redis = pair.master.redis
    await until(pair.is_settled)
    stack.redis = pair.master.redis
    return took


async def _time_of(pair: Pair) -> float:
    await until(pair.is_over)
    return time.monotonic()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Poll, but not for ever.

    Raises:
        StartFailed: it did not come.
    """
    try:
        async with asyncio.timeout(_TIMEOUT):
            while not await is_so():  # noqa: ASYNC110  # only the servers know
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise StartFailed(f"not within {_TIMEOUT:g} s: {is_so!r}") from None


@asynccontextmanager
async def sentinels(folder: Path) -> AsyncIterator[Pair]:
    """A master and its replica, which keep what they acknowledged, and the sentinels.

    Raises:
        StartFailed: something did not start.
    """
    async with AsyncExitStack() as leaving:
        nodes = list[Node]()
        for name in ("redis0", "redis1"):
            port = free_port()
            node = Node(redis_place(name, port, folder), port, Redis(port))
            leaving.push_async_callback(node.place.leave)
            leaving.callback(node.redis.close)
            await node.place.start()
            await node.redis.insist(("CONFIG", "SET", "repl-diskless-sync-delay", 0))
            nodes.append(node)
        master, replica = nodes
        await replica.redis.call("REPLICAOF", "127.0.0.1", master.port)
        pair = Pair(master, replica, {})
        await until(pair.is_linked)
        for _ in range(_SENTINELS):
            port = free_port()
            command = [server_binary(), _settings(folder, port, master), "--sentinel"]
            place = Place(f"sentinel-{port}", command, {}, folder)
            leaving.push_async_callback(place.leave)
            pair.sentinels[port] = Redis(port)
            leaving.callback(pair.sentinels[port].close)
            await place.start()
        await until(pair.is_watched)
        yield pair


def _settings(folder: Path, port: int, master: Node) -> str:
    """A sentinel's settings file, which it goes on writing itself."""
    file = Path(tempfile.mkdtemp(dir=folder)) / "sentinel.conf"
    file.write_text(
        f"port {port}\n"
        f"dir {file.parent}\n"
        f"sentinel monitor {_SERVICE} 127.0.0.1 {master.port} {_SENTINELS // 2 + 1}\n"
        f"sentinel down-after-milliseconds {_SERVICE} {_DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {_SERVICE} 3000\n"
    )
    return str(file)
