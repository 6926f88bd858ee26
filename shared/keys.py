"""The names of everything Piropiro keeps in Redis.

A chat's own keys carry its id in a hash tag, so that they share a Redis Cluster slot. The indexes below are one per
deployment; arq's own keys (`arq:job:…`) are named in `shared.queue`.
"""

import hashlib

WAITING = "piropiro:waiting"
"""Sorted set of the job ids that no worker has claimed yet, by the time the chat was created (µs)."""

RUNNING = "piropiro:running"
"""Hash chat id → worker id of the chats that a worker has claimed and nobody has sealed."""

WORKERS = "piropiro:workers"
"""Sorted set of worker ids by the time of their last heartbeat (ms, Redis's clock)."""

READ = "piropiro:read"
"""Sorted set of the chats to cancel when their last reader is gone, by when they were last read (ms, Redis's clock)."""

SEARCH = "piropiro:search"
"""Set while a process searches everything for orphans, and for a while after: one at a time is enough."""

ABANDONED = "piropiro:abandoned"
"""Sorted set of the upstream's answers that are to be stopped, because their chat ended without them, by when (ms)."""

DOORBELL = "piropiro:doorbell"
"""List of job ids: pushing one wakes exactly one idle worker."""

QUEUE = "piropiro:queue"
"""arq's sorted set of jobs, running ones included."""

CHATS = "piropiro:{*}:*"
"""Matches the chats' records and logs."""


def chat_of(key: bytes) -> str:
    """The id of the chat that a record or log belongs to."""
    return key.decode(errors="replace").partition("{")[2].partition("}")[0]


def record(chat_id: str) -> str:
    """The hash with what is known of a chat beside its log."""
    return f"piropiro:{{{chat_id}}}:chat"


def log(chat_id: str) -> str:
    """The chat's stream; its entries are published on the channel of the same name."""
    return f"piropiro:{{{chat_id}}}:log"


def packed(chat_id: str) -> str:
    """Where a compacted log is made; nobody ever sees a key of this name."""
    return f"piropiro:{{{chat_id}}}:packed"


def idempotency(key: str) -> str:
    """The string that maps a client's `Idempotency-Key` to its chat; hashed, because clients choose its length."""
    return f"piropiro:idempotency:{hashlib.sha256(key.encode()).hexdigest()}"


def worker_channel(worker_id: str) -> str:
    """The channel on which a worker hears which of its chats somebody else sealed."""
    return f"piropiro:worker:{worker_id}"
