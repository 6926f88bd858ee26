"""What the simulator remembers: the last requests, for tests to read, and how often each key was asked."""

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

_RECORDS = 1_000
_KEYS = 10_000


@dataclass(slots=True)
class Record:
    """One request. Times are Unix milliseconds; `retry` counts the earlier requests with the same key.

    `operation` is completion, or create, stream, retrieve, cancel or delete with `response.` before it; such a one has
    a `response_id`, and `starting_after` if it named one.
    `outcome` is running, finished, client_closed, shutdown, `rejected:<status>` or `fault:<kind>` if a fault ended it;
    `faults` lists every kind that took effect, also those that the stream went on after.
    """

    request_id: str
    key: str
    model: str | None
    body: msgspec.Raw | None
    headers: dict[str, Any]
    started: float
    retry: int = 0
    deltas_sent: int = 0
    outcome: str = "running"
    faults: list[str] = field(default_factory=list)
    closed_at: float | None = None
    operation: str = "completion"
    response_id: str | None = None
    starting_after: int | None = None

    def close(self, outcome: str) -> None:
        """Note how the request ended, and when; what is noted first stands."""
        if self.closed_at is None:
            self.outcome = outcome
            self.closed_at = time.time() * 1000


class Journal:
    """Bounded memory of requests and keys; the simulator's only state."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque(maxlen=_RECORDS)
        self._seen: OrderedDict[str, int] = OrderedDict()

    def open(self, digest: str, headers: dict[str, Any], operation: str = "completion") -> Record:
        """Begin the record of a request that has just arrived; its hash is the key until a script names one."""
        record = Record(
            request_id=f"req_{digest[:24]}",
            key=digest,
            model=None,
            body=None,
            headers=headers,
            started=time.time() * 1000,
            operation=operation,
        )
        self._records.append(record)
        return record

    def count(self, key: str) -> int:
        """Count a request of `key` and return how many came before it."""
        earlier = self._seen.pop(key, 0)
        self._seen[key] = earlier + 1
        if len(self._seen) > _KEYS:
            self._seen.popitem(last=False)
        return earlier

    def encode(self, key: str | None = None) -> bytes:
        """All records, or those of one key, as a JSON list, oldest first."""
        return msgspec.json.encode([record for record in self._records if key in (None, record.key)])

    def clear(self) -> None:
        """Forget everything, the counts of the keys too."""
        self._records.clear()
        self._seen.clear()
