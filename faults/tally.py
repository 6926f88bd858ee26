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
    unavailable: list[float] = field(default_factory=list)
    """How long a POST took that was answered 503, at a replica that was not paused itself."""
