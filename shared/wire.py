"""Redis's protocol below redis-py, for the two places where its cost per reply is what limits us.

redis-py makes the connection (TLS, authentication, sentinels, database); then its transport gets a protocol of ours,
which hands over all the replies of one read at once.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

_INCOMPLETE = object()


class Wire(asyncio.Protocol):
    """One connection: what is sent goes out at once, and every batch of replies goes to `on_replies`.

    `lost` is set when the connection ends, whoever ended it.
    """

    def __init__(self, connection: AbstractConnection, on_replies: Callable[[list[Any]], None]) -> None:
        self.lost = asyncio.Event()
        self._connection = connection
        self._on_replies = on_replies
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        # redis-py has read every reply to what it sent, so nothing is left behind in its own reader.
        self._transport = cast("asyncio.Transport", connection._writer.transport)  # type: ignore[union-attr]  # noqa: SLF001  # connected
        self._transport.set_protocol(self)

    @classmethod
    async def open(cls, redis: Redis, on_replies: Callable[[list[Any]], None]) -> "Wire":
        """Connect to where `redis` does.

        Raises:
            shared.connect.FAILURES: it cannot be reached.
        """
        connection: AbstractConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
        return cls(connection, on_replies)

    def send(self, *command: bytes | str) -> None:
        """Send a command; replies come in the order of the commands."""
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub says one argument

    def data_received(self, data: bytes) -> None:
        replies = []
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                replies.append(reply)
        except hiredis.HiredisError:  # whatever that is, it is no Redis
            self.close()
        if replies:
            self._on_replies(replies)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost.set()

    def close(self) -> None:
        """End the connection now."""
        self._transport.abort()
        self._connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001  # else it warns that nobody did
