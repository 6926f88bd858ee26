"""When what fails: a pure function of the seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from faults.settings import LEASE

Kind = tuple[str, "Act"]
"""A target without its number, and what is done to it."""


class Act(StrEnum):
    """What is done to a process (the first four) or to the connections of one kind."""

    KILL = "kill"
    """SIGKILL; started again after `seconds`."""
    STOP = "stop"
    """SIGTERM; started again once it has ended, as in a rolling deploy."""
    PAUSE = "pause"
    """SIGSTOP; SIGCONT after `seconds`."""
    CUT = "cut"
    """A `share` of the open connections breaks, each after some more bytes."""
    REFUSE = "refuse"
    """All connections break, and new ones are refused for `seconds`."""
    DELAY = "delay"
    """Every piece waits up to `share` seconds, for `seconds`."""
    SILENCE = "silence"
    """Nothing comes through for `seconds`; then all of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure: `at` seconds after the beginning, of `target`, over after `seconds`."""

    at: float
    target: str
    act: Act
    seconds: float = 0.0
    share: float = 0.0

    @property
    def kind(self) -> str:
        """What it is counted as: the target without its number, and the act."""
        return f"{self.target.rstrip('0123456789')} {self.act}"

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f} s: {self.target} {self.act}{lasting}"


LINKS = ("client-api", "api-redis", "worker-redis", "worker-upstream")
"""The kinds of connections that go through a proxy of ours."""

_PROCESS_GAP = 3.5
_LINK_GAP = 3.5
_RESTART = 3.0
"""Seconds that a process needs at most to be back, so that the next fault meets it alive."""

_PROCESSES = {
    ("worker", Act.KILL): 5,
    ("worker", Act.STOP): 4,
    ("worker", Act.PAUSE): 4,
    ("api", Act.KILL): 3,
    ("api", Act.STOP): 3,
    ("api", Act.PAUSE): 2,
    ("redis", Act.KILL): 1.5,
    ("redis", Act.PAUSE): 1.5,
    ("simulator", Act.KILL): 2,
}
_ON_LINKS = {Act.CUT: 6, Act.REFUSE: 2, Act.DELAY: 3, Act.SILENCE: 2}
_LINKS = {(link, act): weight for link in LINKS for act, weight in _ON_LINKS.items()}


def make_schedule(seed: int, seconds: float, *, workers: int, apis: int) -> list[Fault]:
    """Everything that fails within `seconds`, in order; no two faults of one target overlap."""
    random = Random(f"{seed}/schedule")
    places = {"worker": workers, "api": apis}
    faults = sorted([*_of_processes(random, seconds, places), *_of_links(random, seconds)], key=lambda fault: fault.at)
    return list(_without_overlaps(faults, seconds))


def _of_processes(random: Random, seconds: float, places: dict[str, int]) -> Iterator[Fault]:
    at = random.expovariate(1 / _PROCESS_GAP)
    for kind, act in _drawn(random, _PROCESSES):
        if at > seconds:
            return
        target = f"{kind}{random.randrange(places[kind])}" if kind in places else kind
        yield Fault(at, target, act, round(_lasting(random, kind, act), 2))
        at += random.expovariate(1 / _PROCESS_GAP)


def _drawn(random: Random, weights: Mapping[Kind, float]) -> Iterator[Kind]:
    """Kinds of faults without end: each once, in any order, so that a short run has them all; then by weight."""
    yield from random.sample(list(weights), len(weights))
    while True:
        yield from random.choices(list(weights), list(weights.values()))


def _lasting(random: Random, kind: str, act: Act) -> float:
    match kind, act:
        case "worker", Act.PAUSE:
            is_long = random.random() < 0.75
            return LEASE + random.uniform(0.5, 4.0) if is_long else random.uniform(0.2, LEASE)
        case "api", Act.PAUSE:
            return random.uniform(0.3, 6.0)
        case "redis", Act.PAUSE:
            return random.uniform(0.3, 5.0)
        case "redis", Act.KILL:
            return random.uniform(0.0, 3.0)
        case _, Act.KILL:
            return random.choice((0.0, random.uniform(0.0, 4.0)))
        case _:
            return 0.0


def _of_links(random: Random, seconds: float) -> Iterator[Fault]:
    at = random.expovariate(1 / _LINK_GAP)
    for link, act in _drawn(random, _LINKS):
        if at > seconds:
            return
        match act:
            case Act.CUT:
                yield Fault(at, link, act, 1.0, round(random.uniform(0.2, 1.0), 2))
            case Act.DELAY:
                yield Fault(at, link, act, round(random.uniform(1.0, 5.0), 2), round(random.uniform(0.01, 0.3), 3))
            case _:
                yield Fault(at, link, act, round(random.uniform(0.2, 4.0), 2))
        at += random.expovariate(1 / _LINK_GAP)


def _without_overlaps(faults: Sequence[Fault], seconds: float) -> Iterator[Fault]:
    free_at = dict[str, float]()
    for fault in faults:
        if fault.at < free_at.get(fault.target, 0.0) or fault.at + fault.seconds > seconds:
            continue
        free_at[fault.target] = fault.at + fault.seconds + (0.0 if fault.target in LINKS else _RESTART)
        yield fault
