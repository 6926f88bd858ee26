"""The yardstick: `python -m bench.echo PORT` answers a doorbell of the bench's own, and does nothing else.

From bell to answer is one wake-up of a sleeping Python process and one command, the least that any doorbell can cost.
Measured at the same moments as the queue and by the same clock, it tells how much of a figure is the machine.
"""

import signal
import sys
from types import FrameType

from redis import Redis

BELL = "bench:bell"
ANSWER = "bench:answer"


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def main(port: int) -> None:
    """Answer each bell with its own text, until SIGTERM."""
    signal.signal(signal.SIGTERM, _end)
    redis = Redis(port=port)
    while True:
        _, text = redis.blpop([BELL])  # type: ignore[misc]  # redis-py types two clients at once
        redis.publish(ANSWER, text)


if __name__ == "__main__":
    main(int(sys.argv[1]))
