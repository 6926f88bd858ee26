"""The figures of the queue benchmark, and how they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

P50_LIMIT, P95_LIMIT = 5.0, 10.0
"""The requirement, in ms."""

ALONE = 30.0
"""Ms without another arrival after which the worker has nothing left to do for the last one."""

_COLUMNS = (
    "situation",
    "chats",
    "p50",
    "p95",
    "max",
    "required",
    "alone p95",
    "bell + arq + claim",
    "yardstick",
    "whole way",
)
_LEGEND = f"""All figures are in ms.

- **p50, p95, max** are enqueue to job start: from the moment at which the script that creates chat and job begins in
  Redis, to the moment at which the job, running in the worker, claims the chat there. The clock is Redis's own
  (`MONITOR`, whose cost is included); what the clocks of API and worker say cannot change it.
- **required**: p50 ≤ {P50_LIMIT:g} and p95 ≤ {P95_LIMIT:g}.
- **alone p95** is of the chats before which no other had come for {ALONE:g} ms. Where p95 is well above it, chats
  waited for the worker's one thread, which was still at work on the chat that came just before.
- **bell + arq + claim** are its parts, each as p50: until the rung worker takes the job in Redis; until arq, which now
  runs it, reads it there; until the claim. arq's own command hears no bell: its poll is in the second part.
- **yardstick** is p50 and p95 of the least that any doorbell costs: one wake-up of a sleeping Python process and one
  command, measured at the same time on the same server. A start takes three such steps. A yardstick with a p95 of
  more than a millisecond says that the machine was busy with something else.
- **whole way** is p50 and p95 from sending `POST /v1/chats` to the arrival of the chat's request at the upstream, by
  the clock of the bench, which is both: what a client waits until the upstream has its request.
- Chats arrive one by one at random moments (Poisson), whether those before are answered or not, and are answered at
  once. The jobs in progress meanwhile are streams that the upstream holds open, silent unless a pace is given.
- Another clock means that all Python code in the worker reads the time of day {{skew:g}} ms off from the API's and
  Redis's. The row of plain `arq` shows that it does: arq starts no job before its time, so none sooner than that."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What surrounds the chats that are measured: `chats` of them, on average `rate` a second, at random moments.

    `held` jobs are in progress meanwhile, on each of which the upstream sends `pace` deltas a second.
    """

    title: str
    chats: int
    rate: float
    held: int = 0
    pace: float = 0.0
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of a situation; all lists are sorted and in ms.

    `starts`: enqueue to job start; `alone`: only of chats that came `ALONE` ms after any other. `stages`: its three
    parts. `echoes`: the yardstick. `whole_ways`: from sending the POST to the arrival of the request at the upstream.
    `faults`: what went wrong.
    """

    situation: Situation
    starts: list[float]
    alone: list[float]
    stages: list[list[float]]
    echoes: list[float]
    whole_ways: list[float]
    faults: list[str]

    def cells(self) -> list[str]:
        """One for each of the columns."""
        p50, p95 = percentile(self.starts, 50), percentile(self.starts, 95)
        is_met = p50 is not None and p95 is not None and p50 <= P50_LIMIT and p95 <= P95_LIMIT
        return [
            self.situation.title,
            str(len(self.starts)),
            *map(_number, (p50, p95, percentile(self.starts, 100))),
            ("met" if is_met else "missed") if self.situation.is_required else "–",
            _number(percentile(self.alone, 95)),
            " + ".join(_number(percentile(stage, 50)) for stage in self.stages),
            _span(self.echoes),
            _span(self.whole_ways),
        ]


@dataclass(frozen=True, slots=True)
class AtOnce:
    """How many of the posted chats ran at once, how long after the first POST that was so, and what went wrong."""

    workers: int
    max_jobs: int
    posted: int
    open: int
    seconds: float
    faults: list[str]

    def sentence(self) -> str:
        """Say it."""
        return (
            f"**Really at once:** {self.workers} workers with `PIROPIRO_MAX_JOBS={self.max_jobs}`, {self.posted} chats"
            f" posted: {self.open} requests open at the upstream at the same moment, {self.posted - self.open} waiting;"
            f" {self.seconds:.2f} s from the first POST until all {self.open} were open."
        )


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """By nearest rank, so that it is a value that was measured; None if none was."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def report(rows: Sequence[Row], at_once: AtOnce, conditions: str, skew_ms: float) -> str:
    """The results as Markdown that also reads well in a terminal."""
    faults = [f"- {row.situation.title}: {fault}" for row in rows for fault in row.faults]
    faults += [f"- at once: {fault}" for fault in at_once.faults]
    parts = [
        "# The queue",
        conditions,
        _table([_COLUMNS, *(row.cells() for row in rows)]),
        at_once.sentence(),
        _LEGEND.format(skew=skew_ms),
    ]
    if faults:
        parts.append("**Went wrong:**\n\n" + "\n".join(faults))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "|".join("-" * (width + 1) + (":" if number else "-") for number, width in enumerate(widths))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        cell.rjust(width) if number else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "| " + " | ".join([first, *others]) + " |"


def _span(figures: Sequence[float]) -> str:
    return f"{_number(percentile(figures, 50))} / {_number(percentile(figures, 95))}"


def _number(figure: float | None) -> str:
    if figure is None:
        return "–"
    return f"{figure:.1f}" if figure < 100 else f"{figure:.0f}"
