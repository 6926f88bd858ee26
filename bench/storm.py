"""The resume storm: a replica died, and all its readers come to another one at once. What do that one's own feel?"""

from pathlib import Path

from bench.compare.loads import OWN, SOURCE, Result, Storm
from bench.compare.report import counted, shown, table
from bench.compare.run import PACE, allow_many_files, apply, conditions
from bench.compare.systems import PIROPIRO, SYSTEMS, running
from bench.machine import Load as MachineLoad

RESULTS = Path(__file__).parent / "results" / "storm.md"
LIMIT = 100.0
"""The most that p99 of the live readers may become, in ms."""

FULL = Storm(live=100, pace=PACE, chats=100, deltas=2000, readers=200, seconds=4.0, patience=60.0)
QUICK = Storm(live=20, pace=PACE, chats=10, deltas=500, readers=40, seconds=2.0, patience=20.0)


async def run(*, quick: bool, seed: int) -> bool:  # noqa: ARG001 - there is no chance in it
    """Measure, print, and unless `quick` write the results; whether every byte was right."""
    machine, storm = MachineLoad(), QUICK if quick else FULL
    allow_many_files()
    ours = next(system for system in SYSTEMS if system.name == PIROPIRO)
    async with running(ours) as target:
        title = f"{storm.live} chats go on while {storm.readers} readers come for {storm.deltas} deltas each"
        result = await apply(target, storm, title)
    text = report(result, storm, conditions(machine))
    print(f"\n{text}")
    if not quick:
        RESULTS.write_text(text, encoding="utf-8")
    return not result.faults


def report(result: Result, storm: Storm, conditions: str) -> str:
    """The results as Markdown."""
    cells = [
        [name, shown(phase.seconds, 1), shown(phase.deltas, 0), shown(phase.p50, 1), shown(phase.p99, 1)]
        for name, phase in result.phases.items()
    ]
    met = [("p99 of the live readers in the storm, ms", result.phases["storm"].p99)] if "storm" in result.phases else []
    required = [
        [title, shown(value, 1), f"≤ {LIMIT:g}", "met" if value is not None and value <= LIMIT else "**missed**"]
        for title, value in met
    ]
    verdict = "Every byte that came was what had to come, and nobody was left without any."
    if result.faults:
        verdict = "**Went wrong:**\n\n" + counted(result.faults)
    parts = [
        "# The resume storm",
        conditions,
        f"""One API process and one worker. {storm.live} live chats at {storm.pace} deltas/s, each with its reader. Then
{storm.readers} others come at the same moment, for {storm.chats} running chats that have said {storm.deltas} deltas
each, and read them from the start, as if their replica had died.""",
        table(["live readers", "seconds", "deltas", "p50, ms", "p99, ms"], cells),
        (
            f"The last of the {storm.readers} had everything after {shown(result.caught_up, 2)} s"
            f" ({storm.readers * storm.deltas:,} deltas). Meanwhile the clients used {result.cores(OWN):.0%} of a core"
            f" and the upstream {result.cores(SOURCE):.0%}."
        ),
        table(["", "measured", "required", ""], required),
        verdict,
    ]
    return "\n\n".join(parts) + "\n"
