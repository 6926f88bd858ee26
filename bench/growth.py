"""Growth: how Piropiro's latency, CPU, memory and use of Redis change with the number of chats and of processes.

Direct stands beside it as long as it holds. The unit costs that come out are put into `bench/estimate.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.compare.loads import OWN, SOURCE, Idle, Result, Typical
from bench.compare.report import counted, shown, table
from bench.compare.run import PACE, allow_many_files, apply, conditions, level
from bench.compare.systems import DIRECT, PIROPIRO, SYSTEMS, running
from bench.estimate import GIB, KIB, Machine, Traffic, UnitCosts, ladder, lines
from bench.machine import Load as MachineLoad

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results" / "growth.md"
SIZES = (100, 10_000, 1_000_000)
KINDS = ("API", "worker", "Redis")
_SHOWN_COMMANDS = 5
_BY_NAME = {system.name: system for system in SYSTEMS}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything: numbers of chats; numbers of processes, all at `scaled` chats; seconds of a window."""

    levels: list[int]
    direct: list[int]
    replicas: list[int]
    workers: list[int]
    scaled: int
    window: float
    typical: Typical
    short: Typical
    idle: Idle


FULL = Plan(
    levels=[1, 10, 50, 100, 200, 400],
    direct=[1, 10, 50],
    replicas=[1, 2, 4],
    workers=[2, 4],
    scaled=200,
    window=4.0,
    typical=Typical(chats=50, deltas=500, pace=PACE, hold=4, waits=[1, 5, 15]),
    short=Typical(chats=50, deltas=1, pace=PACE, hold=2, waits=[5]),
    idle=Idle([1000], rate=100.0),
)
QUICK = Plan(
    levels=[1, 20, 100],
    direct=[20],
    replicas=[1, 2],
    workers=[2],
    scaled=50,
    window=2.0,
    typical=Typical(chats=20, deltas=200, pace=PACE, hold=3, waits=[1, 5]),
    short=Typical(chats=20, deltas=1, pace=PACE, hold=2, waits=[2]),
    idle=Idle([200], rate=100.0),
)


@dataclass(slots=True)
class Growth:
    """All that was measured; `replicas` and `workers` by their number."""

    levels: list[Result] = field(default_factory=list)
    direct: list[Result] = field(default_factory=list)
    replicas: dict[int, Result] = field(default_factory=dict)
    workers: dict[int, Result] = field(default_factory=dict)
    typical: Result = field(default_factory=Result)
    short: Result = field(default_factory=Result)
    idle: Result = field(default_factory=Result)

    def faults(self) -> list[str]:
        """What was wrong in the bytes that came."""
        given = (*self.levels, *self.direct, *self.replicas.values(), *self.workers.values())
        return [fault for result in (*given, self.typical, self.short, self.idle) for fault in result.faults]


async def run(*, quick: bool, seed: int) -> bool:  # noqa: ARG001 - there is no chance in it
    """Measure, print, and unless `quick` write the results; whether every byte was right."""
    machine = MachineLoad()
    allow_many_files()
    plan, growth = QUICK if quick else FULL, Growth()
    scaled = level(plan.scaled, plan.window)
    ours, direct = _BY_NAME[PIROPIRO], _BY_NAME[DIRECT]
    async with running(ours) as target:
        print("what Redis keeps of a typical answer, and does for it", flush=True)
        growth.typical = await apply(
            target, plan.typical, f"{plan.typical.chats} answers of {plan.typical.deltas} tokens"
        )
        growth.short = await apply(target, plan.short, f"{plan.short.chats} answers of one token")
    async with running(ours) as target:
        growth.idle = await apply(target, plan.idle, f"{plan.idle.steps[-1]} idle streams")
    async with running(ours) as target:
        print("more and more chats", flush=True)
        for chats in plan.levels:
            growth.levels.append(await apply(target, level(chats, plan.window), f"{chats} chats"))
    async with running(direct) as target:
        for chats in plan.direct:
            growth.direct.append(await apply(target, level(chats, plan.window), f"{DIRECT}, {chats} chats"))
    print("more and more processes", flush=True)
    for number in plan.replicas:
        async with running(ours, apis=number) as target:
            growth.replicas[number] = await apply(target, scaled, f"{plan.scaled} chats, {number} API, 1 worker")
    growth.workers[1] = growth.replicas[1]
    for number in plan.workers:
        async with running(ours, workers=number) as target:
            growth.workers[number] = await apply(target, scaled, f"{plan.scaled} chats, 1 API, {number} workers")
    text = report(growth, conditions(machine), plan)
    print(f"\n{text}")
    if not quick:
        RESULTS.write_text(text, encoding="utf-8")
        draw(growth, RESULTS.with_suffix(".png"))
    return not growth.faults()


def unit_costs(growth: Growth, at: int) -> UnitCosts:
    """What one delta, one chat and one stream cost; the CPU is that of the level with `at` chats."""
    chosen = next(result for result in growth.levels if result.streams == at)
    use, kept, opened = chosen.redis, growth.typical.kept, growth.idle.streams
    assert use is not None, "Piropiro has a Redis"
    return UnitCosts(
        api_cpu=chosen.of_server("API") or 0.0,
        worker_cpu=chosen.of_server("worker") or 0.0,
        redis_cpu=chosen.of_server("Redis") or 0.0,
        redis_in=use.received / chosen.delivered,
        redis_out=use.sent / chosen.delivered,
        kept_running=kept["running"]["keys in all"],
        kept_ended=list(kept.values())[-1]["keys in all"],
        api_stream=KIB * (growth.idle.kib_per_stream(opened, "API") or 0.0),
        worker_chat=KIB * (growth.idle.kib_per_stream(opened, "worker") or 0.0),
        redis_chat=KIB * (growth.idle.kib_per_stream(opened, "Redis") or 0.0),
    )


def report(growth: Growth, conditions: str, plan: Plan) -> str:
    """The results as Markdown."""
    # An overloaded process has the biggest batches, and so the cheapest deltas: nobody should plan with those.
    at = max((own.streams for own in growth.levels if own.is_held), default=plan.levels[0])
    costs, traffic, machine = unit_costs(growth, at), Traffic(pace=PACE), Machine()
    faults = growth.faults()
    verdict = "Every byte that came was what had to come."
    if faults:
        verdict = "**Went wrong:**\n\n" + counted(faults)
    parts = [
        "# Growth",
        conditions,
        verdict,
        f"## More chats, each with {PACE} deltas a second",
        table(_COLUMNS, [_line(f"{result.streams}", result) for result in growth.levels]),
        f"The same with {DIRECT}:",
        table(_COLUMNS, [_line(f"{result.streams}", result) for result in growth.direct]),
        f"## More processes, all on the same cores, {plan.scaled} chats",
        table(
            _COLUMNS,
            [
                *(_line(f"{number} API, 1 worker", result) for number, result in growth.replicas.items()),
                *(_line(f"1 API, {number} workers", r) for number, r in growth.workers.items() if number > 1),
            ],
        ),
        _LEGEND,
        "## Redis, for a typical answer",
        *_redis(growth, plan),
        "## On paper",
        _paper(costs, traffic, machine, at),
    ]
    return "\n\n".join(parts) + "\n"


_COLUMNS = (
    "",
    "p50, ms",
    "p99, ms",
    "µs per delta: API",
    "worker",
    "Redis",
    "MiB: API",
    "worker",
    "Redis",
    "Redis operations/s",
    "in, KB/s",
    "out, KB/s",
    "connections",
    "fullest process",
    "clients + upstream, cores",
)
_LEGEND = """- **p50, p99**: from the upstream's write of a delta to its arrival.
- **µs per delta**: CPU, user and system, of all processes of a kind, by deltas that arrived.
- **MiB**: private memory of all processes of a kind as soon as the window was over. Earlier levels ran in the same
  processes, and what they said is still kept.
- **Redis operations**: commands of clients, and those which their scripts call. **in, out**: bytes at its sockets, and
  **connections** its clients', all while the window lasted.
- **fullest process**: the server that used most of a core; each of them has one thread, so one core is its end.
- **clients + upstream**: what the load itself used of the cores; it is in no other figure.
- A row whose chats did not all get 95% of their deltas within 100 ms has an asterisk."""


def _line(title: str, result: Result) -> list[str]:
    use, seconds = result.redis, result.seconds or 1.0
    memory = result.memory.get(result.streams, {})
    mib = [sum(size for name, size in memory.items() if name.startswith(kind)) / KIB / KIB for kind in KINDS]
    redis = [use.operations / seconds, use.received / seconds / 1e3, use.sent / seconds / 1e3] if use else []
    return [
        title if result.is_held else f"{title} \\*",
        shown(result.p50, 1),
        shown(result.p99, 1),
        *(shown(result.of_server(kind) or None, 0) for kind in KINDS),
        *(shown(size or None, 0) for size in mib),
        *((shown(value, 0) for value in redis) if redis else ["–"] * 3),
        shown(use.connections if use else None, 0),
        fullest(result),
        f"{result.cores(OWN) + result.cores(SOURCE):.2f}",
    ]


def fullest(result: Result) -> str:
    """The server that used most of a core, and how much of it."""
    servers = [name for name in result.cpu if name not in (OWN, SOURCE)]
    name = max(servers, key=result.cores, default="")
    return f"{name} {result.cores(name):.0%}" if name else "–"


def _redis(growth: Growth, plan: Plan) -> list[str]:
    """What Redis keeps, does and moves."""
    typical, short = growth.typical, growth.short
    kinds = list(dict.fromkeys(kind for own in typical.kept.values() for kind in own))
    cells = [[moment, *(shown(own.get(kind), 1) for kind in kinds)] for moment, own in typical.kept.items()]
    assert typical.redis is not None
    assert short.redis is not None
    use, deltas = typical.redis, typical.delivered
    calls = sorted(use.calls.items(), key=lambda call: -call[1])
    most = ", ".join(f"{name} {number / deltas:.3f}" for name, number in calls[:_SHOWN_COMMANDS])
    return [
        f"""{plan.typical.chats} answers of {plan.typical.deltas} tokens of one to five bytes of prose, at
{plan.typical.pace} a second, in OpenAI's envelope. Bytes by delta (`MEMORY USAGE` of every key there is, by the last
word of its name; the server's growth has its buffers and tables too):""",
        table(["", *kinds], cells),
        f"""- Operations per delta, those of the chat's beginning and end and the processes' own included:
  {use.operations / deltas:.2f} (the most: {most}).
- Network per delta: {use.received / deltas:.0f} bytes in, {use.sent / deltas:.0f} bytes out.
- An answer of one token: {short.redis.operations / short.delivered:.0f} operations,
  {short.redis.received / short.delivered:,.0f} bytes in, {short.redis.sent / short.delivered:,.0f} out;
  {list(short.kept.values())[-1]["keys in all"]:,.0f} bytes kept of it after its end.""",
    ]


def _paper(costs: UnitCosts, traffic: Traffic, machine: Machine, at: int) -> str:
    """The estimates, with what they are made of."""
    used = table(
        ["unit cost", "measured"],
        [
            ["API: µs per delivery", f"{costs.api_cpu:.1f}"],
            ["worker: µs per delta", f"{costs.worker_cpu:.1f}"],
            ["Redis: µs per delta", f"{costs.redis_cpu:.1f}"],
            ["Redis: bytes in / out per delta", f"{costs.redis_in:.0f} / {costs.redis_out:.0f}"],
            ["Redis: bytes kept per delta, running / ended", f"{costs.kept_running:.1f} / {costs.kept_ended:.1f}"],
            ["API: KiB per open stream", f"{costs.api_stream / KIB:.1f}"],
            ["worker / Redis: KiB per open chat", f"{costs.worker_chat / KIB:.1f} / {costs.redis_chat / KIB:.1f}"],
        ],
    )
    gib = machine.redis_memory / GIB
    needs = table(["chats at once", *(f"{size:,}" for size in SIZES)], list(lines(costs, traffic, machine, SIZES)))
    full = "\n".join(
        f"{n}. {name}: {chats:,.0f} chats" for n, (name, chats) in enumerate(ladder(costs, traffic, machine), 1)
    )
    return f"""CPU and network as measured with {at} chats, the most that were held, the rest as above:

{used}

With {traffic.pace:g} deltas a second and {traffic.deltas:g} deltas in each chat, {traffic.readers:g} reader each,
{traffic.retention:g} s of retention, cores filled to {machine.filled:.0%}, Redis nodes with {gib:.0f} GiB
and {machine.redis_network * 8 / 1e9:g} Gbit/s (formulae: `bench/estimate.py`):

{needs}

What is full first, as the number of chats grows:

{full}"""


def draw(growth: Growth, file: Path) -> None:
    """Draw what grows with the chats, and what with the processes."""
    # It takes half a second to import, and only this needs it.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.use("Agg")
    canvas, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    latency, cpu, memory, redis, replicas, workers = axes.flat
    chats = [result.streams for result in growth.levels]
    for title, name, style in (("p50", "p50", "-"), ("p99", "p99", "--")):
        latency.plot(chats, [getattr(own, name) for own in growth.levels], f"C0o{style}", label=f"{PIROPIRO}, {title}")
        theirs = [getattr(own, name) for own in growth.direct]
        latency.plot([own.streams for own in growth.direct], theirs, f"C3s{style}", label=f"{DIRECT}, {title}")
    latency.set(title="latency of a delta", xlabel=f"chats at {PACE} deltas/s", ylabel="ms", yscale="log")
    for kind in KINDS:
        cpu.plot(chats, [own.of_server(kind) for own in growth.levels], marker="o", label=kind)
        sizes = [own.memory[own.streams][kind] / KIB / KIB for own in growth.levels]
        memory.plot(chats, sizes, marker="o", label=kind)
    theirs = [own.per_delta for own in growth.direct]
    cpu.plot([own.streams for own in growth.direct], theirs, "C3s--", label=f"{DIRECT}, in all")
    cpu.set(title="CPU per delta", xlabel=f"chats at {PACE} deltas/s", ylabel="µs", yscale="log")
    memory.set(title="private memory", xlabel=f"chats at {PACE} deltas/s", ylabel="MiB", ylim=(0, None))
    used = [(own.redis, own.seconds) for own in growth.levels if own.redis is not None]
    redis.plot(chats, [use.operations / seconds for use, seconds in used], marker="o", label="operations/s")
    redis.plot(chats, [use.received / seconds / 1e3 for use, seconds in used], marker="o", label="KB/s in")
    redis.plot(chats, [use.sent / seconds / 1e3 for use, seconds in used], marker="o", label="KB/s out")
    redis.set(title="Redis", xlabel=f"chats at {PACE} deltas/s", ylim=(0, None))
    for axis, results, title in ((replicas, growth.replicas, "API replicas"), (workers, growth.workers, "workers")):
        _stack(axis, results)
        axis.set(title=f"CPU per delta by {title}", xlabel=f"{title} on the same cores", ylabel="µs")
    for axis in axes.flat:
        axis.legend(fontsize="small")
    canvas.savefig(file, dpi=110)


def _stack(axis: "Axes", results: dict[int, Result]) -> None:
    names, bottom = [str(number) for number in results], [0.0] * len(results)
    for kind in KINDS:
        heights: Sequence[float] = [result.of_server(kind) or 0.0 for result in results.values()]
        axis.bar(names, heights, bottom=bottom, label=kind)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
