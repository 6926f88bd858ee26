"""What is counted and measured while a campaign runs."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts, and latencies in seconds."""

    chats: int = 0
    ended: int = 0
    readers: int = 0
    resumes: int = 0
    retried_posts: int = 0
    orphans: int = 0
    failed_starts: int = 0
    """Starts that gave up because Redis was away; the next one follows."""

    open_chats: int = 0
    most_open: int = 0
    waited: int = 0
    """Chats that could not begin in time, because as many as may be were open."""

    most_descriptors: int = 0
    """That this process had open at once."""

    unstopped: list[str] = field(default_factory=list)
    """Names of processes that SIGTERM did not end in time."""

    ends: Counter[str] = field(default_factory=Counter)
    """How chats ended, errors by their code."""

    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    """Statuses that clients got other than 200, 202 and 204."""

    restarts: int = 0
    """Attempts beyond each chat's first."""

    takeovers: list[float] = field(default_factory=list)
    cancels: list[float] = field(default_factory=list)
    lefts: list[float] = field(default_factory=list)
    """How long chats went on that all their readers had left, where that ends a chat."""

    late: list[str] = field(default_factory=list)
    """POSTs that were not answered in time, 503 or otherwise."""

    unavailable: list[float] = field(default_factory=list)
    """How long a POST took that was answered 503, at a replica that was not paused itself."""
