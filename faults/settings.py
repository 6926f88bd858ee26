"""What the product under test is started with, as far as a schedule, a client or the checker depends on it."""

LEASE = 3.0
KEEPALIVE = 2.0
DRAIN = 2.0
STALL_TIMEOUT = 3.0
MAX_ATTEMPTS = 3
UPSTREAM_RETRIES = 2

ENVIRONMENT = {
    "PIROPIRO_LEASE": str(LEASE),
    "PIROPIRO_KEEPALIVE": str(KEEPALIVE),
    "PIROPIRO_DRAIN": str(DRAIN),
    "PIROPIRO_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "PIROPIRO_STALL_TIMEOUT": str(STALL_TIMEOUT),
    "PIROPIRO_UPSTREAM_RETRIES": str(UPSTREAM_RETRIES),
    "PIROPIRO_RETENTION": "7200",
}
