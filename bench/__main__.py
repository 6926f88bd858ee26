"""`python -m bench`: choose a benchmark, run it to its end or to Ctrl-C, leave no process behind."""

import argparse
import asyncio
import signal
import sys

import uvloop

from bench import first_minute, growth, overload, queue, slow_readers, storm
from bench.client import ApiFailed
from bench.compare.run import run as compare
from bench.processes import StartFailed

BENCHMARKS = {
    "compare": compare,
    "growth": growth.run,
    "queue": queue.run,
    "first-minute": first_minute.run,
    "slow-readers": slow_readers.run,
    "storm": storm.run,
    "overload": overload.run,
}


def main() -> int:
    """Parse the command line and run; the exit status is 1 if the benchmark could not be run or a check failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Piropiro with real processes on this machine. Results go to bench/results/.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default="compare",
        choices=sorted(BENCHMARKS),
        help="default: compare, with simpler ways to stream answers",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer chats or runs, for a first look; results are not written"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random arrivals (default: 1)")
    options = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            passed = runner.run(_until_told(options.name, quick=options.quick, seed=options.seed))
    except (ApiFailed, StartFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench: stopped", file=sys.stderr)
        return 130
    return 0 if passed else 1


async def _until_told(name: str, *, quick: bool, seed: int) -> bool:
    """Run the benchmark; SIGTERM unwinds it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await BENCHMARKS[name](quick=quick, seed=seed)


if __name__ == "__main__":
    sys.exit(main())
