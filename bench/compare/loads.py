"""What the load generator is told to do, and what it answers: plain data, which crosses the process border as JSON."""

import statistics
from collections.abc import Sequence

import msgspec

LATE_MS = 100.0
ON_TIME = 0.95
"""A level of load is held if each stream gets that share of its deltas within `LATE_MS`."""

OWN, SOURCE = "load generator", "upstream"
"""The names of the bench's own processes among the figures."""


class Target(msgspec.Struct, frozen=True):
    """The system under test: its replicas' ports, the process ids of its servers by name, its Redis, if it has one."""

    ports: list[int]
    pids: dict[str, int]
    redis_port: int | None = None


class Paced(msgspec.Struct, tag=True, frozen=True):
    """Chats by the moment of their start, each with its number of deltas; figures are of the window (s)."""

    starts: list[tuple[float, int]]
    pace: int
    window: tuple[float, float]


class Burst(msgspec.Struct, tag=True, frozen=True):
    """So many chats at the same time, as fast as they go."""

    chats: int
    deltas: int
    patience: float


class Followed(msgspec.Struct, tag=True, frozen=True):
    """One chat, and so many readers who come to it, `rate` a second; then a window of `seconds`."""

    readers: int
    rate: float
    pace: int
    seconds: float


class Resumed(msgspec.Struct, tag=True, frozen=True):
    """A finished chat, read again from the start and from its middle, so many times each."""

    deltas: int
    times: int


class Idle(msgspec.Struct, tag=True, frozen=True):
    """Streams that are open and silent, `rate` more a second; memory is taken at each of the steps."""

    steps: list[int]
    rate: float


class Typical(msgspec.Struct, tag=True, frozen=True):
    """Answers of prose, in tokens of up to five bytes; what Redis keeps of them.

    It is taken when all is said but nothing has ended, and `waits` (s) after all have ended.
    """

    chats: int
    deltas: int
    pace: int
    hold: int
    waits: list[float]


class Storm(msgspec.Struct, tag=True, frozen=True):
    """`readers` come at once for `chats` running chats with `deltas` each, while `live` other chats go on.

    It is what the readers of a replica that died do to another one. `seconds` is how long the live chats are watched
    before; they go on for `patience` at most.
    """

    live: int
    pace: int
    chats: int
    deltas: int
    readers: int
    seconds: float
    patience: float


class Overload(msgspec.Struct, tag=True, frozen=True):
    """Chats of `deltas` each that come at a rate which the system carries, then at one which it does not.

    Both are (chats, chats a second). All readers take JSON, which tells them their place in the queue.
    """

    within: tuple[int, float]
    beyond: tuple[int, float]
    deltas: int
    pace: int
    patience: float


Load = Paced | Burst | Followed | Resumed | Idle | Typical | Storm | Overload


class Phase(msgspec.Struct, frozen=True):
    """The latencies (ms) of what was written in a part of the run, which took so many seconds."""

    seconds: float
    deltas: int
    p50: float | None
    p99: float | None


class RedisUse(msgspec.Struct, frozen=True):
    """What Redis did in the window: bytes that came in and went out, calls by command, and its connections then.

    A script counts, and so does each command that it calls.
    """

    received: int
    sent: int
    calls: dict[str, int]
    connections: int

    @property
    def operations(self) -> int:
        """Calls of every kind."""
        return sum(self.calls.values())


class Result(msgspec.Struct):
    """What was measured; a figure that a load does not give stays None. Times in ms where the name does not say.

    `cpu`: seconds by process in the window. `on_time`: of the stream that had the fewest, the share of deltas that
    came within `LATE_MS`. `lag`: by how much the upstream itself was late (p99). `share`: when half of all deltas had
    come, those of the chat with the fewest, over the mean. `silence`: the longest wait of any chat for its next delta,
    its first one included. `unfinished`: streams that had not ended in time. `memory`: private bytes by open streams
    and server. `per_read`: deltas that one read of a replay brought. `kept`: bytes in Redis per delta, by moment and
    kind. `caught_up`: s until the last of those who came at once had all. `positions`: places in the queue, by reader.
    """

    streams: int = 0
    seconds: float = 0.0
    delivered: int = 0
    cpu: dict[str, float] = {}
    first_p50: float | None = None
    first_p95: float | None = None
    p50: float | None = None
    p99: float | None = None
    on_time: float | None = None
    lag: float | None = None
    share: float | None = None
    silence: float | None = None
    replay: float | None = None
    middle: float | None = None
    per_read: float | None = None
    memory: dict[int, dict[str, int]] = {}
    connections: int | None = None
    redis: RedisUse | None = None
    kept: dict[str, dict[str, float]] = {}
    phases: dict[str, Phase] = {}
    caught_up: float | None = None
    refused: int = 0
    retry_after: list[int] = []
    positions: list[list[int]] = []
    unfinished: int = 0
    faults: list[str] = []

    @property
    def is_held(self) -> bool:
        """Whether every stream got enough of its deltas in time."""
        return not self.faults and not self.unfinished and self.on_time is not None and self.on_time >= ON_TIME

    def kib_per_stream(self, streams: int, *servers: str) -> float | None:
        """What each open stream costs those servers, or all of them."""
        if not {0, streams} <= self.memory.keys():
            return None
        before, after = self.memory[0], self.memory[streams]
        return sum(after[name] - before[name] for name in servers or after) / 1024 / streams

    @property
    def rate(self) -> float:
        """Deltas per second."""
        return self.delivered / self.seconds if self.seconds else 0.0

    @property
    def per_delta(self) -> float | None:
        """Microseconds of CPU that the servers used for each delta that arrived."""
        return self.of_server("")

    def of_server(self, kind: str) -> float | None:
        """The same for all processes of one kind: "API" is "API", "API 2" and so on; "" is all of them."""
        seconds = sum(own for name, own in self.cpu.items() if name not in (OWN, SOURCE) and name.startswith(kind))
        return 1e6 * seconds / self.delivered if self.delivered else None

    def cores(self, name: str) -> float:
        """What a process used, as a share of one core."""
        return self.cpu.get(name, 0.0) / self.seconds if self.seconds else 0.0


_MEASURED = ("first_p50", "first_p95", "p50", "p99", "on_time", "lag")


def merged(results: Sequence[Result]) -> Result:
    """Several rounds of the same load as one: medians of latencies, sums of what is divided by deltas or seconds."""
    if len(results) == 1:
        return results[0]
    whole = Result(
        streams=results[0].streams,
        seconds=sum(result.seconds for result in results),
        delivered=sum(result.delivered for result in results),
        cpu={name: sum(result.cpu.get(name, 0.0) for result in results) for name in results[0].cpu},
        memory=results[0].memory,
        unfinished=max(result.unfinished for result in results),
        faults=[fault for result in results for fault in result.faults],
    )
    for name in _MEASURED:
        values = [value for result in results if (value := getattr(result, name)) is not None]
        setattr(whole, name, statistics.median(values) if values else None)
    return whole


def lateness(sent: Sequence[int], pace: int) -> list[float]:
    """By how much (ms) each delta was written later than its fixed rhythm says, in a chat of `pace` a second.

    The rhythm is that of the delta which was least late, so that it can only be underrated by that one's own lateness.
    """
    beat = 1_000_000_000 / pace
    offsets = [moment - number * beat for number, moment in enumerate(sent)]
    least = min(offsets, default=0.0)
    return [(offset - least) / 1e6 for offset in offsets]
