"""Connections to Redis: one way to make them, from `REDIS_URL`."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff

OUTAGE = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError, OSError)
"""What a command raises when Redis is not reachable or not ready; it may still have been carried out."""

CONNECT_TIMEOUT = 1.0
REPLY_TIMEOUT = 5.0


def connect(redis_url: str, *, max_connections: int = 16, reply_timeout: float = REPLY_TIMEOUT) -> Redis:
    """Make a client for `REDIS_URL`; nothing is sent before its first command.

    The pool never holds more than `max_connections`; a command waits for a free one. Every command of ours may be
    repeated safely, so each is tried again over a fresh connection before it raises one of `OUTAGE`.

    `redis+sentinel://[user:password@]host:port,host:port/service[/db]` asks the sentinels for the master.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": reply_timeout,
        "socket_keepalive": True,
        "retry": Retry(ExponentialBackoff(cap=0.3, base=0.05), retries=2),
        "retry_on_error": list(OUTAGE),
    }
    parts = urlsplit(redis_url)
    if parts.scheme == "redis+sentinel":
        return _connect_by_sentinel(redis_url, max_connections, options)
    if parts.scheme == "unix":
        del options["socket_keepalive"]
    pool = BlockingConnectionPool.from_url(redis_url, max_connections=max_connections, timeout=reply_timeout, **options)
    return Redis.from_pool(pool)


def _connect_by_sentinel(redis_url: str, max_connections: int, options: dict[str, Any]) -> Redis:
    parts = urlsplit(redis_url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "26379")
        sentinels.append((name, int(port)))
    query = dict(parse_qsl(parts.query))
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py
        sentinels, sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT, **query}
    )
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py
        service or "mymaster",
        sentinel,
        max_connections=max_connections,
        db=int(database or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        **options,
    )
    return Redis.from_pool(pool)


def redact(redis_url: str) -> str:
    """The URL without its password, for messages and logs."""
    parts = urlsplit(redis_url)
    if "@" not in parts.netloc:
        return redis_url
    return parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]).geturl()
