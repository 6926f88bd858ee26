"""Runs the comparison: each system in turn, the same loads on each, one table and one picture at the end."""

import asyncio
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench import processes
from bench.compare.load import SETTLE
from bench.compare.loads import ON_TIME, OWN, SOURCE, Burst, Followed, Idle, Load, Paced, Result, Resumed, Target
from bench.compare.report import HEAVY, Figures, draw, report
from bench.compare.systems import DIRECT, PIPE, PIROPIRO, SYSTEMS, TEXTBOOK, System, running
from bench.machine import Load as MachineLoad

RESULTS = Path(__file__).parents[1] / "results" / "compare.md"
PACE = 50
LIGHT = 20
"""Chats at once under light load; each lasts two seconds, and the next one takes its place."""

_SEED = 1
_LIFE = 2.0
_COMING = 50.0
"""Chats that come in a second, on the way to a level of load."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. A system climbs its `levels` until one is not held, but never skips those `always` run.

    `idle`: steps of open streams, by system; followers and resumes are for those who can. When all systems have had
    their turn, those in `again` have a second round of light load and of the level that matters most.
    """

    light_seconds: float
    window: float
    again: tuple[str, ...]
    levels: dict[str, list[int]]
    always: dict[str, int]
    burst: Burst
    followed: dict[str, Followed]
    resumed: Resumed
    idle: dict[str, list[int]] = field(default_factory=dict)


_CLIMB = [20, 40, 75, 100, 200, 300]
FULL = Plan(
    light_seconds=8.0,
    window=4.0,
    again=(DIRECT, PIROPIRO),
    levels=dict.fromkeys((DIRECT, TEXTBOOK, PIROPIRO), _CLIMB) | {PIPE: [200, 300]},
    always={PIROPIRO: 200},
    burst=Burst(chats=50, deltas=2000, patience=120.0),
    followed={name: Followed(readers=1000, rate=400.0, pace=PACE, seconds=4.0) for name in (TEXTBOOK, PIROPIRO)},
    resumed=Resumed(deltas=10_000, times=20),
    idle={DIRECT: [1000], TEXTBOOK: [1000], PIROPIRO: [1000, 5000], PIPE: [1000]},
)
QUICK = Plan(
    light_seconds=2.0,
    window=2.0,
    again=(),
    levels={DIRECT: [20], TEXTBOOK: [20], PIROPIRO: [20, 100]},
    always={},
    burst=Burst(chats=10, deltas=300, patience=15.0),
    followed={PIROPIRO: Followed(readers=200, rate=400.0, pace=PACE, seconds=2.0)},
    resumed=Resumed(deltas=2000, times=5),
)


async def run(*, quick: bool, seed: int) -> bool:  # noqa: ARG001 - there is no chance in it
    """Measure, print, and unless `quick` write the results; whether every byte was right."""
    machine, began = MachineLoad(), time.monotonic()
    allow_many_files()
    plan = QUICK if quick else FULL
    figures = [await _measure(system, plan) for system in SYSTEMS if system.name in plan.levels]
    for system, own in zip(SYSTEMS, figures, strict=False):
        if system.name in plan.again:
            await _measure_again(system, plan, own)
    text = report(figures, conditions(machine), PACE)
    print(f"\n{text}")
    print(f"{time.monotonic() - began:.0f} s in all")
    if not quick:
        RESULTS.write_text(text, encoding="utf-8")
        draw(figures, RESULTS.with_suffix(".png"))
    return not any(faults for own in figures for faults in own.faults())


def conditions(machine: MachineLoad) -> str:
    """What it was measured on, and what else ran there."""
    with tempfile.TemporaryDirectory() as directory:
        _, server = processes.redis_server(0, Path(directory))
    return (
        f"{os.cpu_count()} cores, shared by everything: the servers, the upstream and the clients; {platform.system()},"
        f" Python {platform.python_version()}, {server}. {machine.sentence()}"
    )


def allow_many_files() -> None:
    """Let the processes to come open as many sockets as the machine's administrator permits."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _measure(system: System, plan: Plan) -> Figures:
    """Start the system, put every load on it, stop it; memory is taken from processes that have done nothing else."""
    figures = Figures(system.name, system.about)
    print(f"{system.name}: {system.about}", flush=True)
    if steps := plan.idle.get(system.name):
        async with running(system) as target:
            figures.idle = await apply(target, Idle(steps, rate=100.0), f"{steps} idle streams")
    async with running(system) as target:
        figures.lights = [await _light(target, plan)]
        burst = plan.burst
        figures.burst = await apply(target, burst, f"{burst.chats} chats × {burst.deltas} deltas, as fast as they go")
        if followed := plan.followed.get(system.name):
            figures.followed = await apply(target, followed, f"1 chat × {followed.readers} readers")
        if system.worker is not None:
            figures.resumed = await apply(target, plan.resumed, f"resume of {plan.resumed.deltas} deltas")
        figures.levels = await _climb(target, plan.levels[system.name], plan.always.get(system.name, 0), plan.window)
    return figures


async def _measure_again(system: System, plan: Plan, figures: Figures) -> None:
    """A second round, some minutes after the first one, of what noise would hurt most."""
    print(f"{system.name}, second round", flush=True)
    streams = plan.always.get(system.name) or (figures.held.streams if figures.held else HEAVY)
    async with running(system) as target:
        figures.lights.append(await _light(target, plan))
        figures.levels.append(await _level(target, streams, plan.window))


async def _light(target: Target, plan: Plan) -> Result:
    return await apply(target, light(plan.light_seconds), f"{LIGHT} chats at {PACE} deltas/s, each for {_LIFE:g} s")


async def _climb(target: Target, levels: Sequence[int], always: int, window: float) -> list[Result]:
    """Raise the load until it is not held any more; the level `always` is measured whatever comes before it.

    A level that is not held is tried once more, so that one noisy moment does not end the climb.
    """
    results = list[Result]()
    holds = True
    for streams in levels:
        if not holds and streams != always:
            continue
        results.append(await _level(target, streams, window))
        if holds and not results[-1].is_held:
            results.append(await _level(target, streams, window))
        holds = holds and results[-1].is_held
    return results


async def _level(target: Target, streams: int, window: float) -> Result:
    return await apply(target, level(streams, window), f"{streams} chats at {PACE} deltas/s")


def light(seconds: float) -> Paced:
    """`LIGHT` chats at any time: one after the other they come, and leave after two seconds."""
    deltas, gap = round(_LIFE * PACE), _LIFE / LIGHT
    count = round((_LIFE + seconds) / gap)
    return Paced([(start, deltas) for start in _arrivals(count, gap)], PACE, (_LIFE, _LIFE + seconds))


def level(streams: int, window: float) -> Paced:
    """So many chats at once, which come one after the other and all end together."""
    begin = streams / _COMING + SETTLE
    ends = begin + window + SETTLE / 2
    starts = _arrivals(streams, 1 / _COMING)
    return Paced([(start, round((ends - start) * PACE)) for start in starts], PACE, (begin, begin + window))


def _arrivals(count: int, gap: float) -> list[float]:
    """One moment in each gap, by chance, but always the same: in step, all chats' deltas would come at one moment."""
    chance = random.Random(_SEED)
    return [(number + chance.random()) * gap for number in range(count)]


async def apply(target: Target, load: Load, title: str) -> Result:
    """Put the load on the system by a process that does nothing else."""
    print(f"  {title} …", flush=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.compare.load"),
        cwd=processes.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate(msgspec.json.encode((target, load)))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise processes.StartFailed(f"the load generator ended with status {process.returncode}")
    result = msgspec.json.decode(output, type=Result)
    print(f"    {_summary(result)}", flush=True)
    return result


def _summary(result: Result) -> str:
    """What a progress line says of it."""
    parts = []
    if result.p50 is not None and result.p99 is not None:
        parts.append(f"latency p50 {result.p50:.1f} ms, p99 {result.p99:.1f} ms")
    if result.on_time is not None:
        parts.append(f"{'held' if result.is_held else 'not held'}: {result.on_time:.0%} in time, {ON_TIME:.0%} needed")
    if result.per_delta is not None:
        parts.append(f"{result.per_delta:.0f} µs of CPU per delta, {result.rate:,.0f} deltas/s")
        parts.append(f"upstream {result.cores(SOURCE):.0%} and clients {result.cores(OWN):.0%} of a core")
    if result.lag is not None:
        parts.append(f"upstream late by {result.lag:.1f} ms (p99)")
    if result.share is not None and result.silence is not None:
        parts.append(f"slowest chat's share {result.share:.2f}, longest silence {result.silence:,.0f} ms")
        parts.append(f"first deltas after {result.first_p50 or 0:,.0f} ms (p50), {result.first_p95 or 0:,.0f} ms (p95)")
    if result.replay is not None and result.middle is not None:
        parts.append(f"replay {result.replay:.1f} ms, from the middle {result.middle:.1f} ms")
    parts += [f"{n} open: {kib:.0f} KiB each" for n in result.memory if n and (kib := result.kib_per_stream(n))]
    parts += _special(result)
    if result.unfinished:
        parts.append(f"{result.unfinished} of {result.streams} streams did not end in time")
    parts += [f"WRONG: {fault}" for fault in result.faults[:3]]
    return "; ".join(parts)


def _special(result: Result) -> list[str]:
    """What it says of the loads that only Piropiro gets."""
    parts = [
        f"{name}: p50 {phase.p50 or 0:.1f} ms, p99 {phase.p99 or 0:.1f} ms over {phase.seconds:.1f} s"
        for name, phase in result.phases.items()
    ]
    if result.caught_up is not None:
        parts.append(f"all had caught up after {result.caught_up:.2f} s")
    if result.refused:
        parts.append(f"{result.refused} refused with 429")
    return parts + [f"kept {moment}: {own['keys in all']:.1f} bytes per delta" for moment, own in result.kept.items()]
