"""Connections to Redis: one way to make them, from `REDIS_URL`."""

import asyncio
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import ExponentialBackoff

OUTAGE = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError, OSError)
"""What a command raises when Redis is not reachable or not ready; it may still have been carried out."""

FAILURES = (exceptions.RedisError, OSError)
"""What a command raises when it failed for whatever reason."""

CONNECT_TIMEOUT = 1.0
REPLY_TIMEOUT = 5.0


class _CancellableWrites(AbstractConnection):
    """Bounds a write by `asyncio.timeout`, where redis-py 5 uses `asyncio.wait_for`.

    Under Python 3.11 the latter swallows a cancellation that comes while the write completes (cpython#86296), after
    which a task that was told to end goes on for ever; and it makes a task of every write.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002  # redis-py's signature
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]  # redis-py
        patience, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(patience):
                await super().send_packed_command(command, check_health=check_health)
        except TimeoutError:
            raise exceptions.TimeoutError("Timeout writing to socket") from None
        except RuntimeError as error:  # uvloop's, for a transport that was just closed
            raise exceptions.ConnectionError(str(error)) from error
        finally:
            self.socket_timeout = patience


class _TcpConnection(_CancellableWrites, Connection):
    """redis:// over TCP."""


class _TlsConnection(_CancellableWrites, SSLConnection):
    """rediss:// over TLS."""


class _UnixConnection(_CancellableWrites, UnixDomainSocketConnection):
    """unix:// over a socket in the file system."""


class _SentinelConnection(_CancellableWrites, SentinelManagedConnection):
    """To whatever server the sentinels name."""


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Waits for a free connection, where redis-py's own pool for sentinels fails."""


_CLASSES = {"redis": _TcpConnection, "rediss": _TlsConnection, "unix": _UnixConnection}


def connect(redis_url: str, *, max_connections: int = 16, reply_timeout: float = REPLY_TIMEOUT) -> Redis:
    """Make a client for `REDIS_URL`; nothing is sent before its first command.

    The pool never holds more than `max_connections`; a command waits for a free one. Every command of ours may be
    repeated safely, so each is tried again over a fresh connection before it raises one of `OUTAGE`.

    `redis+sentinel://[user:password@]host:port,host:port/service[/db]` asks the sentinels for the master.
    """
    scheme = urlsplit(redis_url).scheme
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": reply_timeout,
        "retry": Retry(ExponentialBackoff(cap=0.3, base=0.05), retries=2),
        "retry_on_error": list(OUTAGE),
    }
    if scheme != "unix":
        options["socket_keepalive"] = True
    if scheme == "redis+sentinel":
        return Redis.from_pool(_sentinel_pool(redis_url, {**options, "timeout": reply_timeout}))
    options = {**options, **parse_url(redis_url), "connection_class": _CLASSES[scheme]}
    pool = BlockingConnectionPool(timeout=reply_timeout, **options)  # type: ignore[arg-type]  # seconds
    return Redis.from_pool(pool)


def _sentinel_pool(redis_url: str, options: dict[str, Any]) -> SentinelConnectionPool:
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
    return _BlockingSentinelPool(  # type: ignore[no-untyped-call]  # redis-py
        service or "mymaster",
        sentinel,
        connection_class=_SentinelConnection,
        db=int(database or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        **options,
    )
