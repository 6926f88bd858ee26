"""What the product under test is started with, as far as a schedule, a client or the checker depends on it."""

LEASE = 3.0
KEEPALIVE = 2.0
DRAIN = 2.0
STALL_TIMEOUT = 3.0
MAX_ATTEMPTS = 3
UPSTREAM_RETRIES = 2

LEFT_LIMIT = 8.0
"""Seconds without a fault within which a chat ends that all readers left, if it was to end then."""

READ_FOR = 3.0
"""Seconds without a fault for which a chat must have been read, so that nothing excuses an end as if it were left."""

UNAVAILABLE_LIMIT = 2.0
"""Seconds within which a POST is answered, 503 when Redis is away."""

UNAVAILABLE_ALLOWANCE = 0.5
"""Seconds that such an answer may take more on a machine whose cores are all busy."""

ENVIRONMENT = {
    "PIROPIRO_LEASE": str(LEASE),
    "PIROPIRO_KEEPALIVE": str(KEEPALIVE),
    "PIROPIRO_DRAIN": str(DRAIN),
    "PIROPIRO_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "PIROPIRO_STALL_TIMEOUT": str(STALL_TIMEOUT),
    "PIROPIRO_UPSTREAM_RETRIES": str(UPSTREAM_RETRIES),
    "PIROPIRO_RETENTION": "7200",
}
