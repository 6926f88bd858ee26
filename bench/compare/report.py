"""The comparison as a table with ratios to the simple way, and as a picture."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from bench.compare.loads import LATE_MS, ON_TIME, OWN, SOURCE, Result, merged
from bench.compare.systems import DIRECT, PIROPIRO

_SHOWN_FAULTS = 20
HEAVY = 200
"""Streams at once that Piropiro must carry."""


@dataclass(slots=True)
class Figures:
    """All that was measured on one system; what it cannot do, or was not asked to, stays None.

    `lights` has the rounds of light load, `levels` those of every level in the order in which they were run.
    """

    name: str
    about: str
    lights: list[Result] = field(default_factory=list)
    burst: Result = field(default_factory=Result)
    followed: Result | None = None
    resumed: Result | None = None
    idle: Result | None = None
    levels: list[Result] = field(default_factory=list)

    @property
    def light(self) -> Result:
        """The rounds of light load as one."""
        return merged(self.lights) if self.lights else Result()

    @property
    def held(self) -> Result | None:
        """The highest level that was held, at least in one of its rounds."""
        return self.at(max((result.streams for result in self.levels if result.is_held), default=0))

    def at(self, streams: int) -> Result | None:
        """All rounds of the level of so many streams, held or not, as one."""
        rounds = [result for result in self.levels if result.streams == streams]
        return merged(rounds) if rounds else None

    @property
    def climbed(self) -> list[Result]:
        """Each level that was run, its rounds as one, from the lowest to the highest."""
        return [
            merged([own for own in self.levels if own.streams == n]) for n in sorted({r.streams for r in self.levels})
        ]

    def results(self) -> Iterator[Result]:
        """Each of them."""
        given = (*self.lights, self.burst, self.followed, self.resumed, self.idle, *self.levels)
        return (result for result in given if result is not None)

    def faults(self) -> list[str]:
        """What was wrong in the bytes that came."""
        return list(chain.from_iterable(result.faults for result in self.results()))


@dataclass(frozen=True, slots=True)
class Row:
    """A figure: where it is found, and with how many decimals it is shown."""

    title: str
    figure: Callable[[Figures], float | None]
    decimals: int = 1
    has_ratio: bool = True

    def cell(self, figures: Figures, direct: Figures | None) -> str:
        """The figure, and its ratio to the simple way's."""
        value = self.figure(figures)
        if value is None:
            return "–"
        shown = f"{value:,.{self.decimals}f}"
        base = self.figure(direct) if direct is not None and direct is not figures and self.has_ratio else None
        return f"{shown} (× {value / base:.2f})" if base else shown


def _of(result: Callable[[Figures], Result | None], name: str) -> Callable[[Figures], float | None]:
    def figure(figures: Figures) -> float | None:
        found = result(figures)
        value: float | None = getattr(found, name) if found is not None else None
        return value

    return figure


def _memory(streams: int, *servers: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.idle.kib_per_stream(streams, *servers) if figures.idle is not None else None


def _heavy(figures: Figures) -> Result | None:
    return figures.at(HEAVY)


def rows(figures: Sequence[Figures]) -> list[Row]:
    """The table's rows, without those that nobody has a figure for."""
    followers = next((own.followed.streams for own in figures if own.followed), 0)
    steps = sorted({step for own in figures if own.idle for step in own.idle.memory if step})
    candidates = [
        Row("streams held", lambda own: own.held.streams if own.held else None, 0),
        Row("CPU per delta at that level, µs", _of(lambda own: own.held, "per_delta"), 0),
        Row(f"CPU per delta at {HEAVY} streams, µs", _of(_heavy, "per_delta"), 0),
        Row(f"latency at {HEAVY} streams, p50", _of(_heavy, "p50")),
        Row(f"latency at {HEAVY} streams, p99", _of(_heavy, "p99")),
        Row("20 chats: added TTFT, p50", _of(lambda own: own.light, "first_p50")),
        Row("20 chats: added TTFT, p95", _of(lambda own: own.light, "first_p95")),
        Row("20 chats: latency, p50", _of(lambda own: own.light, "p50")),
        Row("20 chats: latency, p99", _of(lambda own: own.light, "p99")),
        Row("20 chats: CPU per delta, µs", _of(lambda own: own.light, "per_delta"), 0),
        Row("saturated, deltas/s", _of(lambda own: own.burst, "rate"), 0),
        Row("saturated: CPU per delta, µs", _of(lambda own: own.burst, "per_delta"), 0),
        Row("saturated: slowest chat's share", _of(lambda own: own.burst, "share"), 2, has_ratio=False),
        Row("saturated: longest silence of a chat", _of(lambda own: own.burst, "silence"), 0),
        Row("saturated: first delta, p50", _of(lambda own: own.burst, "first_p50"), 0),
        Row(f"{followers:,} readers of one chat: latency, p50", _of(lambda own: own.followed, "p50")),
        Row(f"{followers:,} readers of one chat: latency, p99", _of(lambda own: own.followed, "p99")),
        Row(f"{followers:,} readers of one chat: CPU per delivery, µs", _of(lambda own: own.followed, "per_delta")),
        Row("replay of a finished chat", _of(lambda own: own.resumed, "replay")),
        Row("replay: deltas per read of the socket", _of(lambda own: own.resumed, "per_read"), 0),
        Row("resume in its middle, first delta", _of(lambda own: own.resumed, "middle")),
        *(Row(f"{step:,} open streams: KiB each", _memory(step)) for step in steps),
        *(Row(f"{step:,} open streams: KiB each, API alone", _memory(step, "API")) for step in steps),
        Row("Redis connections then", _of(lambda own: own.idle, "connections"), 0),
    ]
    return [row for row in candidates if any(row.figure(own) is not None for own in figures)]


def report(figures: Sequence[Figures], conditions: str, pace: int) -> str:
    """The results as Markdown."""
    direct = next((own for own in figures if own.name == DIRECT), None)
    cells = table(
        ["", *(own.name for own in figures)],
        [[row.title, *(row.cell(own, direct) for own in figures)] for row in rows(figures)],
    )
    systems = "\n".join(f"- **{own.name}**: {own.about}." for own in figures)
    faults = [f"{own.name}: {fault}" for own in figures for fault in own.faults()]
    verdict = "**Went wrong:**\n\n" + counted(faults) if faults else "Every byte that came was what had to come."
    held = [result for own in figures for result in own.levels if result.is_held]
    clients, upstream = (max((result.cores(name) for result in held), default=0.0) for name in (OWN, SOURCE))
    lag = max((result.lag or 0.0 for result in held), default=0.0)
    parts = [
        "# The comparison",
        conditions,
        systems,
        f"Times are in ms; in brackets the ratio to {DIRECT}.",
        cells,
        verdict,
        *_requirements(figures, direct),
        "## Level by level",
        _levels(figures),
        _LEGEND.format(pace=pace, own=clients, source=upstream, lag=lag),
    ]
    return "\n\n".join(parts) + "\n"


_LEGEND = f"""- The upstream answers at once, with {{pace}} deltas a second in each chat; each says when it was written.
  **Latency** is from that moment to its arrival at the client. **Added TTFT** is from the client's POST to its first
  delta, which the upstream writes as soon as it is asked.
- A level is **held** if each of its streams got {ON_TIME:.0%} of its deltas within {LATE_MS:g} ms. A system climbs
  until one is not.
- **CPU** is user and system time of all servers (API, worker and Redis, where there are any), by deltas that arrived.
- **Saturated**: 50 chats × 2,000 deltas (a quick run: fewer) as fast as they go, from the first POST to the last
  delta. The slowest chat's share is what it had of the mean when half of all deltas had come; the longest
  silence is the longest wait of any chat for its next delta, or, from its POST, for its first.
- **Open streams** are chats that have said one delta and then nothing. KiB are private memory of all servers, without
  the kernel's.
- Where there were several rounds of a load, latencies are their medians and CPU is their sum by the sum of deltas.
- The upstream does not wait for slow readers: its deltas are due at fixed moments, whatever became of those before.
  **Upstream late** is p99 of the time by which it wrote a delta later than that; at the levels held {{lag:.1f}} ms at
  most. A latency counts from the write, so add it for the wait since the delta was due.
- At the levels that were held, the clients used at most {{own:.0%}} of a core and the upstream {{source:.0%}}; neither
  is in the servers' CPU."""


def _levels(figures: Sequence[Figures]) -> str:
    cells = [
        [
            f"{own.name}, {_load(own, result)}",
            "yes" if result.is_held else "no",
            *(shown(value, 1) for value in (result.p50, result.p99)),
            f"{result.on_time or 0:.0%}",
            shown(result.per_delta, 0),
            f"{result.rate:,.0f}",
            shown(result.lag, 1),
            " + ".join(f"{name} {result.cores(name):.0%}" for name in result.cpu),
        ]
        for own in figures
        for result in (*own.levels, *own.lights)
    ]
    return table(["", "held", "p50", "p99", "in time", "µs per delta", "deltas/s", "upstream late", "of a core"], cells)


def _load(figures: Figures, result: Result) -> str:
    return "20 chats, come and go" if any(result is own for own in figures.lights) else f"{result.streams} streams"


def _requirements(figures: Sequence[Figures], direct: Figures | None) -> list[str]:
    """What Piropiro must reach, and whether it did; nothing if a part of it was not measured."""
    ours = next((own for own in figures if own.name == PIROPIRO), None)
    if ours is None or direct is None:
        return []
    heavy, base = ours.at(HEAVY), direct.held
    if heavy is None or base is None or ours.followed is None or ours.resumed is None or ours.idle is None:
        return []
    limits = [
        (f"{HEAVY} streams: latency p50", heavy.p50, 10.0),
        (f"{HEAVY} streams: latency p99", heavy.p99, 60.0),
        (
            f"{HEAVY} streams: CPU per delta, over {DIRECT}'s at its level",
            _ratio(heavy.per_delta, base.per_delta),
            0.25,
        ),
        (f"saturated: {DIRECT}'s deltas/s over ours", _ratio(direct.burst.rate, ours.burst.rate), 0.2),
        (f"20 chats: added TTFT p50, over {DIRECT}'s", _ratio(ours.light.first_p50, direct.light.first_p50), 1.0),
        ("20 chats: added TTFT p95", ours.light.first_p95, 20.0),
        ("20 chats: latency p50", ours.light.p50, 1.5),
        ("20 chats: latency p99", ours.light.p99, 10.0),
        ("1,000 readers: latency p50", ours.followed.p50, 10.0),
        ("1,000 readers: CPU per delivery, µs", ours.followed.per_delta, 20.0),
        ("5,000 open streams: KiB each, API alone", ours.idle.kib_per_stream(5000, "API"), 25.0),
        (
            f"5,000 open streams: KiB each, all servers, over {DIRECT}'s at 1,000",
            _ratio(ours.idle.kib_per_stream(5000), direct.idle.kib_per_stream(1000) if direct.idle else None),
            1.0,
        ),
        ("replay of 10,000 deltas", ours.resumed.replay, 40.0),
        ("resume in the middle, first delta", ours.resumed.middle, 5.0),
        ("saturated: longest silence of a chat", ours.burst.silence, 1000.0),
    ]
    cells = [
        [title, shown(value, 2), f"≤ {limit:g}", "met" if value is not None and value <= limit else "**missed**"]
        for title, value, limit in limits
    ]
    return ["## Required of Piropiro", table(["", "measured", "required", ""], cells)]


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def shown(value: float | None, decimals: int) -> str:
    """A figure for people; a dash if there is none."""
    return "–" if value is None else f"{value:,.{decimals}f}"


def counted(faults: Sequence[str]) -> str:
    """What went wrong, as a list; what went wrong often is said once, with its number."""
    often = Counter(faults).most_common(_SHOWN_FAULTS)
    return "\n".join(f"- {fault}{f' ({times} times)' if times > 1 else ''}" for fault, times in often)


def table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown: the first column is words, the others are figures."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *cells))


def draw(figures: Sequence[Figures], file: Path) -> None:
    """Draw the levels and two of the rows."""
    # It takes half a second to import, and only this needs it.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.use("Agg")
    canvas, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    cpu, latency, saturated, memory = axes.flat
    for own in figures:
        streams = [result.streams for result in own.climbed]
        cpu.plot(streams, [result.per_delta for result in own.climbed], marker="o", label=own.name)
        latency.plot(streams, [result.p99 for result in own.climbed], marker="o", label=own.name)
    cpu.set(title="CPU of all servers per delta", xlabel="streams at 50 deltas/s", ylabel="µs", ylim=(0, None))
    latency.set(title="latency of a delta, p99", xlabel="streams at 50 deltas/s", ylabel="ms", yscale="log")
    latency.axhline(LATE_MS, color="grey", linestyle=":")
    cpu.legend()
    colours = [f"C{number}" for number in range(len(figures))]
    names = [own.name for own in figures]
    saturated.bar(names, [own.burst.rate for own in figures], color=colours)
    saturated.set(title="50 chats as fast as they go", ylabel="deltas/s", yscale="log")
    kib = [own.idle.kib_per_stream(1000) or 0.0 if own.idle is not None else 0.0 for own in figures]
    memory.bar(names, kib, color=colours)
    memory.set(title="memory of all servers per open stream", ylabel="KiB")
    canvas.savefig(file, dpi=110)
