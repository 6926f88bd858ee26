"""What so many chats at once would need, worked out from what one delta, one chat and one stream cost.

Pure arithmetic, each formula in a line of its own; `python -m bench growth` prints it with the costs it has measured.
A cell is one Redis with the API and worker processes that belong to it: what a chat has in Redis is on one node, and
the indexes of all chats (`shared/keys.py`) are one per Redis, so that beyond one Redis there are several cells, each
chat in one of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

GIB = 1024**3
KIB = 1024


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """What was measured: CPU in µs per delta (the API's per delivery), network in bytes per delta, memory in bytes.

    `kept_running` and `kept_ended` are bytes in Redis per delta of a typical answer, its record included. `api_stream`,
    `worker_chat` and `redis_chat` are what one open chat costs each of them that has said next to nothing.
    """

    api_cpu: float
    worker_cpu: float
    redis_cpu: float
    redis_in: float
    redis_out: float
    kept_running: float
    kept_ended: float
    api_stream: float
    worker_chat: float
    redis_chat: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is asked for: deltas a second in each chat, deltas per answer, readers per chat, retention in s."""

    pace: float = 50.0
    deltas: float = 500.0
    readers: float = 1.0
    retention: float = 3600.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is: how far a core is filled, a Redis node's memory in bytes, and its network in bytes a second."""

    filled: float = 0.6
    redis_memory: float = 48 * GIB
    redis_network: float = 10e9 / 8 * 0.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """What so many chats at once need. Redis's cores, memory and network each ask for nodes; the most of these win.

    Memory in bytes, network in bytes a second.
    """

    chats: int
    api_cores: float
    worker_cores: float
    redis_cores: float
    redis_memory: float
    redis_network: float
    api_memory: float
    worker_memory: float
    api_processes: int
    worker_processes: int
    redis_by: dict[str, int]

    @property
    def cells(self) -> int:
        """Redis nodes, each with its share of the processes."""
        return max(self.redis_by.values())

    @property
    def redis_bound(self) -> str:
        """What of Redis is used up first."""
        return max(self.redis_by, key=lambda what: self.redis_by[what])


def estimate(chats: int, costs: UnitCosts, traffic: Traffic, machine: Machine) -> Estimate:
    """Work it out for so many chats at the same time."""
    rate = chats * traffic.pace
    api_cores = rate * traffic.readers * costs.api_cpu / 1e6
    worker_cores = rate * costs.worker_cpu / 1e6
    redis_cores = rate * costs.redis_cpu / 1e6
    # A running answer is half said on average. Those ended stay for the retention: rate / deltas of them end a second.
    running = chats * (traffic.deltas / 2 * costs.kept_running + costs.redis_chat)
    ended = rate * traffic.retention * costs.kept_ended
    network = rate * max(costs.redis_in, costs.redis_out)
    return Estimate(
        chats=chats,
        api_cores=api_cores,
        worker_cores=worker_cores,
        redis_cores=redis_cores,
        redis_memory=running + ended,
        redis_network=network,
        api_memory=chats * traffic.readers * costs.api_stream,
        worker_memory=chats * costs.worker_chat,
        api_processes=max(1, ceil(api_cores / machine.filled)),
        worker_processes=max(1, ceil(worker_cores / machine.filled)),
        redis_by={
            "CPU": max(1, ceil(redis_cores / machine.filled)),
            "memory": max(1, ceil((running + ended) / machine.redis_memory)),
            "network": max(1, ceil(network / machine.redis_network)),
        },
    )


def ladder(costs: UnitCosts, traffic: Traffic, machine: Machine) -> list[tuple[str, float]]:
    """At how many chats one process, or one Redis, of each kind is full; what is full first comes first."""
    one = estimate(1_000_000, costs, traffic, machine)
    steps = {
        "one API process: CPU": one.api_cores / machine.filled,
        "one worker process: CPU": one.worker_cores / machine.filled,
        "one Redis: CPU": one.redis_cores / machine.filled,
        "one Redis: memory": one.redis_memory / machine.redis_memory,
        "one Redis: network": one.redis_network / machine.redis_network,
    }
    return sorted(((name, 1_000_000 / use) for name, use in steps.items() if use > 0), key=lambda step: step[1])


def lines(costs: UnitCosts, traffic: Traffic, machine: Machine, sizes: tuple[int, ...]) -> Iterator[list[str]]:
    """The estimates as a table's lines: what is needed, by the number of chats."""
    own = [estimate(chats, costs, traffic, machine) for chats in sizes]
    yield ["deltas per second", *(f"{chats * traffic.pace:,.0f}" for chats in sizes)]
    yield ["API: cores busy → processes", *(f"{e.api_cores:,.1f} → {e.api_processes:,}" for e in own)]
    yield ["worker: cores busy → processes", *(f"{e.worker_cores:,.1f} → {e.worker_processes:,}" for e in own)]
    yield ["Redis: cores busy", *(f"{e.redis_cores:,.1f}" for e in own)]
    yield ["Redis: memory, GiB", *(f"{e.redis_memory / GIB:,.1f}" for e in own)]
    yield ["Redis: network, the busier direction, Gbit/s", *(f"{e.redis_network * 8 / 1e9:,.2f}" for e in own)]
    yield ["API: memory for streams, GiB", *(f"{e.api_memory / GIB:,.1f}" for e in own)]
    yield ["worker: memory for chats, GiB", *(f"{e.worker_memory / GIB:,.1f}" for e in own)]
    yield [
        "Redis nodes by CPU / memory / network",
        *(" / ".join(f"{e.redis_by[what]:,}" for what in ("CPU", "memory", "network")) for e in own),
    ]
    yield ["**cells** (what bounds one)", *(f"**{e.cells:,}** ({e.redis_bound})" for e in own)]
