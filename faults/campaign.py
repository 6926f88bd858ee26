"""The campaign: chats, their clients and the weather at once; every chat is checked as soon as it is over."""

import asyncio
import json
import math
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from faults.chats import ChatPlan
from faults.checker import Column, Finding, check
from faults.clients import COLLECTING, Clients, World
from faults.evidence import Evidence, to_json
from faults.probe import probe
from faults.report import counts, report
from faults.schedule import Fault
from faults.stack import PRODUCT, Stack, running_stack
from faults.sweep import digest, sweep
from faults.tally import Tally
from faults.weather import Weather

SETTLE = 75.0
"""Seconds after the last fault within which every chat must have ended."""

TIDY = 20.0
"""Seconds after the last chat's end within which nothing must be left of any."""

OPEN_AT_ONCE = 250
"""Chats that may be open at the same time, so that the campaign stays bounded when the product is slow."""

_SWEEPING = 60.0
"""Seconds that the sweep may take besides."""

_PROGRESS = 5.0
_AROUND = 30.0
_DUMPED = 50
_FAILED_START = "piropiro: cannot reach Redis"


@dataclass(frozen=True)
class Plan:
    """Everything that a campaign does: a function of its seed, unless a test makes one of its own."""

    seed: int
    chats: Sequence[ChatPlan]
    schedule: Sequence[Fault]
    seconds: float
    apis: int = 2
    workers: int = 3
    settle: float = SETTLE
    tidy: float = TIDY
    product: Sequence[str] = PRODUCT
    settings: dict[str, str] = field(default_factory=dict)
    is_resumable: bool = False
    open_at_once: int = OPEN_AT_ONCE
    is_quiet: bool = False

    @property
    def longest(self) -> float:
        """Seconds from the first chat to the end, whatever happens."""
        return self.seconds + self.settle + COLLECTING + 2 * self.tidy + _SWEEPING


@dataclass
class Outcome:
    """What came of it. `kept`: the evidence of the first good chats, where that was asked for."""

    tally: Tally
    findings: list[Finding]
    kept: list[Evidence] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.findings

    def columns(self) -> set[Column]:
        """Those that are not zero."""
        return {finding.column for finding in self.findings}

    def table(self) -> str:
        return report(self.tally, self.findings)


async def run(plan: Plan, folder: Path, *, keep: int = 0) -> Outcome:
    """Run the campaign; evidence of what went wrong is left in `folder`, beside the processes' output.

    Raises:
        StartFailed: the product did not start.
    """
    async with running_stack(
        folder,
        Random(f"{plan.seed}/proxies"),
        apis=plan.apis,
        workers=plan.workers,
        product=plan.product,
        settings=plan.settings | ({"PIROPIRO_UPSTREAM": "responses"} if plan.is_resumable else {}),
    ) as stack:
        tally = Tally()
        give_up = time.monotonic() + plan.seconds + plan.settle
        world = World(stack, tally, f"s{plan.seed}", plan.seed, give_up, is_resumable=plan.is_resumable)
        weather = Weather(stack, tally)
        campaign = _Campaign(plan, world, weather, folder, keep)
        beside = [asyncio.create_task(task) for task in (campaign.watch(), probe(stack, tally))]
        try:
            await campaign.run()
        finally:
            for task in beside:
                task.cancel()
            ends = await asyncio.gather(*beside, return_exceptions=True)
            await weather.close()
            campaign.findings += _beside_chats(stack, tally)
            campaign.findings += [Finding(Column.PROCESS, "faults", repr(e)) for e in ends if isinstance(e, Exception)]
            (folder / "schedule.txt").write_text("".join(f"{at:.3f} {what}\n" for at, what in weather.history))
            (folder / "findings.txt").write_text("".join(f"{finding}\n" for finding in campaign.findings))
        return Outcome(tally, campaign.findings, list(campaign.kept))


def _beside_chats(stack: Stack, tally: Tally) -> list[Finding]:
    """What went wrong that was no chat's."""
    failed_starts, crashes = _sort(crash for place in stack.places for crash in place.crashes)
    tally.failed_starts = len(failed_starts)
    return [
        *(Finding(Column.PROCESS, crash.partition(" ")[0], crash) for crash in crashes),
        *(Finding(Column.PROCESS, name, "SIGTERM did not end it") for name in tally.unstopped),
        *(Finding(Column.SLOW, f"POST {number}", late) for number, late in enumerate(tally.late)),
    ]


def _sort(ends: Iterable[str]) -> tuple[list[str], list[str]]:
    """Ends that nobody asked for: starts that failed because Redis was away, as they should; and crashes."""
    failed_starts, crashes = list[str](), list[str]()
    for end in ends:
        (failed_starts if _FAILED_START in end.rpartition(" | ")[2] else crashes).append(end)
    return failed_starts, crashes


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


class _Campaign:
    """One run: what is going on, and what was found so far."""

    def __init__(self, plan: Plan, world: World, weather: Weather, folder: Path, keep: int) -> None:
        self.findings: list[Finding] = []
        self.kept: deque[Evidence] = deque(maxlen=keep)
        self._plan = plan
        self._world = world
        self._weather = weather
        self._folder = folder
        self._checked: dict[str, bytes] = {}
        self._keyed: dict[str, str] = {}
        self._dumped = 0
        self._began = time.monotonic()

    async def run(self) -> None:
        try:
            async with asyncio.timeout(self._plan.longest):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._weather.run(self._plan.schedule))
                    await self._begin_chats(group)
                await self._sweep()
        except TimeoutError:
            self._find(Column.STUCK, "the campaign", f"did not end within {self._plan.longest:.0f} s")

    async def _begin_chats(self, group: asyncio.TaskGroup) -> None:
        """Begin each chat at its moment, or later, when there is room; but not so late that it could not end."""
        room, tally = asyncio.Semaphore(self._plan.open_at_once), self._world.tally
        for number, chat in enumerate(self._plan.chats):
            await asyncio.sleep(self._began + chat.at - time.monotonic())
            tally.waited += room.locked()
            try:
                async with asyncio.timeout(self._world.give_up - self._plan.settle / 2 - time.monotonic()):
                    await room.acquire()
            except TimeoutError:
                missing = len(self._plan.chats) - number
                self._find(Column.STUCK, "all others", f"{missing} chats could not begin: those before did not end")
                return
            tally.chats += 1
            group.create_task(self._run_chat(chat, room))

    async def _sweep(self) -> None:
        found, self._world.tally.orphans = await sweep(self._world.stack, self._checked, self._keyed, self._plan.tidy)
        self.findings += found

    def _find(self, column: Column, chat: str, detail: str) -> None:
        self.findings.append(Finding(column, chat, detail))

    async def _run_chat(self, plan: ChatPlan, room: asyncio.Semaphore) -> None:
        tally = self._world.tally
        tally.open_chats += 1
        tally.most_open = max(tally.most_open, tally.open_chats)
        clients = Clients(plan, self._world)
        try:
            await clients.run()
            findings = self._judge(clients.evidence)
        except Exception as error:  # noqa: BLE001  # the product said what nobody thought of: a finding, not our end
            findings = [Finding(Column.WRONG, plan.label, f"cannot be judged: {traceback.format_exception(error)}")]
        finally:
            tally.open_chats -= 1
            room.release()
        if findings:
            self.findings += findings
            self._dump(clients.evidence, findings)
        elif self.kept.maxlen:
            self.kept.append(clients.evidence)

    def _judge(self, evidence: Evidence) -> list[Finding]:
        evidence.disturbed = self._weather.disturbed()
        self._count(evidence)
        return check(evidence)

    def _count(self, evidence: Evidence) -> None:
        tally = self._world.tally
        tally.ended += 1
        if evidence.chat_id is None:
            return
        self._checked[evidence.chat_id] = digest(evidence.entries)
        if evidence.plan.is_keyed:
            self._keyed[f"{self._world.run}/{evidence.plan.label}"] = evidence.chat_id
        tally.restarts += max(0, sum(value[:1] in (b"S", b"R") for _, value in evidence.entries) - 1)
        last = evidence.entries[-1][1] if evidence.entries else b""
        if evidence.left_at is not None and last[:1] == b"X":
            tally.lefts.append(max(0.0, evidence.chat.get("finished_at", math.inf) - evidence.left_at))
        match last[:1]:
            case b"D":
                tally.ends["done"] += 1
            case b"X":
                tally.ends["cancelled"] += 1
            case b"E":
                tally.ends[str(json.loads(last[1:])["error"]["code"])] += 1
            case _:
                tally.ends["not at all"] += 1

    def _dump(self, evidence: Evidence, findings: Sequence[Finding]) -> None:
        self._dumped += 1
        if self._dumped > _DUMPED:
            return
        moments = [float(view.notes[0].partition(" ")[0]) for view in evidence.views if view.notes]
        first, last = min(moments, default=time.time()) - _AROUND, time.time()
        around = [f"{at:.3f} {what}" for at, what in self._weather.history if first <= at <= last]
        content = {
            "seed": self._plan.seed,
            "findings": [str(finding) for finding in findings],
            "schedule": around,
            "evidence": to_json(evidence),
        }
        path = self._folder / f"{evidence.plan.label}.json"
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False))

    async def watch(self) -> None:
        """Count descriptors, and print one line, every few seconds; ends only by cancellation."""
        while True:
            await asyncio.sleep(_PROGRESS)
            tally = self._world.tally
            tally.most_descriptors = max(tally.most_descriptors, _open_descriptors())
            if not self._plan.is_quiet:
                print(self._progress(tally), flush=True)

    def _progress(self, tally: Tally) -> str:
        bad = ", ".join(f"{count} {column}" for column, count in counts(self.findings).items() if count)
        return (
            f"{time.monotonic() - self._began:5.0f} s: {tally.ended} of {tally.chats} chats ended"
            f" ({len(self._plan.chats)} planned), {tally.readers} readers, {tally.resumes} resumes,"
            f" {sum(tally.faults.values())} faults; {bad or 'nothing wrong'}"
        )
