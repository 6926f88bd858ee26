"""Overload: more chats than the worker may run. The queue must grow, not the latency of what runs; then comes 429."""

from pathlib import Path

from bench.compare.loads import Overload, Result
from bench.compare.report import counted, shown, table
from bench.compare.run import PACE, allow_many_files, apply, conditions
from bench.compare.systems import PIROPIRO, SYSTEMS, running
from bench.machine import Load as MachineLoad

RESULTS = Path(__file__).parent / "results" / "overload.md"
MAX_JOBS, MAX_QUEUE = 20, 100
SETTINGS = {"PIROPIRO_MAX_JOBS": str(MAX_JOBS), "PIROPIRO_MAX_QUEUE": str(MAX_QUEUE)}

FULL = Overload(within=(48, 8.0), beyond=(400, 50.0), deltas=2 * PACE, pace=PACE, patience=40.0)
QUICK = Overload(within=(32, 8.0), beyond=(200, 50.0), deltas=2 * PACE, pace=PACE, patience=40.0)


async def run(*, quick: bool, seed: int) -> bool:  # noqa: ARG001 - there is no chance in it
    """Measure, print, and unless `quick` write the results; whether everything accepted came to its end."""
    machine, load = MachineLoad(), QUICK if quick else FULL
    allow_many_files()
    ours = next(system for system in SYSTEMS if system.name == PIROPIRO)
    async with running(ours, settings=SETTINGS) as target:
        (calm, slow), (many, fast) = load.within, load.beyond
        result = await apply(target, load, f"{calm} chats at {slow:g} a second, then {many} at {fast:g}")
    faults = found(result)
    text = report(result, load, conditions(machine), faults)
    print(f"\n{text}")
    if not quick:
        RESULTS.write_text(text, encoding="utf-8")
    return not faults


def found(result: Result) -> list[str]:
    """What went wrong: bytes, positions, chats without an end, a queue without a limit."""
    faults = list(result.faults)
    if result.unfinished:
        faults.append(f"{result.unfinished} accepted chats did not end in time")
    if not result.refused:
        faults.append("nothing was refused, however full the queue was")
    if not result.positions:
        faults.append("nobody was told a place in the queue")
    if (worst := max((max(own) for own in result.positions), default=0)) > MAX_QUEUE:
        faults.append(f"somebody waited at place {worst} of a queue of {MAX_QUEUE}")
    return faults


def report(result: Result, load: Overload, conditions: str, faults: list[str]) -> str:
    """The results as Markdown."""
    (calm, slow), (many, fast) = load.within, load.beyond
    life = load.deltas / load.pace
    cells = [
        [name, shown(phase.seconds, 1), shown(phase.deltas, 0), shown(phase.p50, 1), shown(phase.p99, 1)]
        for name, phase in result.phases.items()
    ]
    told = [len(own) for own in result.positions]
    firsts = [own[0] for own in result.positions]
    waits = sorted(set(result.retry_after))
    verdict = "Everything that was accepted ended in `done`, with every byte that had to come, and no place ever grew."
    if faults:
        verdict = "**Went wrong:**\n\n" + counted(faults)
    parts = [
        "# Overload",
        conditions,
        f"""One API process, and one worker with `PIROPIRO_MAX_JOBS={MAX_JOBS}`; `PIROPIRO_MAX_QUEUE={MAX_QUEUE}`.
A chat takes {life:g} s at {load.pace} deltas/s, so the worker can begin {MAX_JOBS / life:g} a second. {calm} come at
{slow:g} a second, then {many} at {fast:g}; each of them reads its own stream as JSON from its POST on.""",
        table(["running chats", "seconds", "deltas", "p50, ms", "p99, ms"], cells),
        (
            f"- {calm + many} POSTs: {calm + many - result.refused} accepted, {result.refused} answered 429 with a"
            f" Retry-After of {' or '.join(map(str, waits)) or '–'} s.\n"
            f"- {len(told)} readers were told their place in the queue, {sum(told)} times in all; the first place told"
            f" was {max(firsts, default=0)} at most."
        ),
        verdict,
    ]
    return "\n\n".join(parts) + "\n"
