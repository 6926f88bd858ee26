"""`python -m faults`: choose a scenario, run it to its end or to Ctrl-C, leave no process behind."""

import argparse
import asyncio
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from faults import campaign, cancel, deploy, failover, takeover
from faults.chats import make_chats
from faults.crowd import Result
from faults.schedule import make_schedule
from faults.stack import PRODUCT, StartFailed

_APIS, _WORKERS = 2, 3
_FULL = (2200, 7.5)
_QUICK = (400, 1.25)
_LAST_CHAT = 5.0
"""Seconds before the last fault at which the last chat begins."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    name: str
    seed: int
    chats: int
    minutes: float
    folder: Path
    is_temporary: bool
    product: Sequence[str]
    upstream: str


def main() -> int:
    """Parse the command line and run; the exit status is 1 if anything was wrong."""
    options = _parse()
    # A reader behind the proxy takes three descriptors, and on a busy machine there are thousands of readers at once.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            is_good = runner.run(_until_told(options))
    except StartFailed as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"faults: stopped; what there is of evidence is in {options.folder}", file=sys.stderr)
        return 130
    except Exception:
        print(f"faults: broke off; what there is of evidence is in {options.folder}", file=sys.stderr)
        raise
    if is_good and options.is_temporary:
        shutil.rmtree(options.folder)
    else:
        print(f"The evidence is in {options.folder}")
    return 0 if is_good else 1


def _parse() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description="Break everything around Piropiro while clients read, and check that no promise was broken.",
    )
    scenarios = ("campaign", "takeover", "cancel", "deploy", "failover")
    parser.add_argument("name", nargs="?", default="campaign", choices=scenarios, help="default: campaign")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of chats, readers and faults (default: 1)")
    parser.add_argument("--chats", type=int, metavar="N", help=f"how many (default: {_FULL[0]}; quick: {_QUICK[0]})")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help=f"how long the faults last (default: {_FULL[1]}; quick: {_QUICK[1]})"
    )
    parser.add_argument("--quick", action="store_true", help="two minutes in all")
    parser.add_argument(
        "--upstream", default="completions", choices=("completions", "responses"), help="what it speaks, in a campaign"
    )
    parser.add_argument("--folder", type=Path, help="where to leave evidence (default: a new one)")
    parser.add_argument(
        "--product", nargs="+", default=PRODUCT, metavar="ARG", help=argparse.SUPPRESS
    )  # tests/faults/mutants.py
    options = parser.parse_args()
    chats, minutes = _QUICK if options.quick else _FULL
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"piropiro-faults-{options.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    return Options(
        name=options.name,
        seed=options.seed,
        chats=options.chats or chats,
        minutes=options.minutes or minutes,
        folder=folder,
        is_temporary=options.folder is None,
        product=options.product,
        upstream=options.upstream,
    )


async def _until_told(options: Options) -> bool:
    """Run the scenario; SIGTERM unwinds it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    match options.name:
        case "takeover":
            print(await takeover.run(options.folder))
            return True
        case "cancel":
            print(await cancel.run(options.folder))
            return True
        case "deploy":
            return _shown(await deploy.run(options.folder))
        case "failover":
            return _shown(await failover.run(options.folder))
        case _:
            return await _run_campaign(options)


def _shown(result: Result) -> bool:
    print(result.table)
    return result.is_good


async def _run_campaign(options: Options) -> bool:
    seconds = 60 * options.minutes
    plan = campaign.Plan(
        seed=options.seed,
        chats=make_chats(options.seed, options.chats, max(1.0, seconds - _LAST_CHAT)),
        schedule=make_schedule(options.seed, seconds, workers=_WORKERS, apis=_APIS),
        seconds=seconds,
        apis=_APIS,
        workers=_WORKERS,
        product=options.product,
        is_resumable=options.upstream == "responses",
    )
    print(f"seed {options.seed}: {options.chats} chats, {len(plan.schedule)} faults within {seconds:.0f} s", flush=True)
    outcome = await campaign.run(plan, options.folder)
    result = f"Fault campaign, seed {options.seed}\n\n{outcome.table()}\n"
    (options.folder / "table.md").write_text(result)
    print(f"\n{result}")
    for finding in outcome.findings[:50]:
        print(finding)
    return outcome.is_good


if __name__ == "__main__":
    sys.exit(main())
