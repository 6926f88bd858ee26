"""Redis spoken over a connection directly: many commands in one write, their replies in as few reads as they came in.

redis-py makes the connection (addresses, TLS, authentication, sentinels), but then costs some 30 µs for each command
and its reply. So its connection is taken over as soon as it stands: bytes out, parsed replies in.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, ReadOnlyError
from redis.exceptions import TimeoutError as TimedOut

Command = tuple[Any, ...]
"""Its parts are `str`, `bytes` or `int`."""


class Wire(asyncio.Protocol):
    """One connection, for as long as it lasts. Its callbacks run on the event loop and must not block.

    `received` gets the replies of each read, in order (an error is an exception among them); `lost` is called once,
    when the connection is lost or was closed.
    """

    def __init__(self, received: Callable[[list[Any]], None], lost: Callable[[Exception], None]) -> None:
        self._received = received
        self._lost = lost
        self._is_closed = False

    async def open(self, pool: ConnectionPool) -> None:
        """Connect as the pool's connections do, but outside of it.

        Raises:
            shared.connect.FAILURES: it could not be had.
        """
        connection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        self._connection: AbstractConnection = connection
        await self._connection.connect()
        parse_error = self._connection._parser.parse_error  # noqa: SLF001  # as redis-py's own reader has it
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=parse_error)
        writer = self._connection._writer  # noqa: SLF001  # which has no public name
        assert writer is not None
        self._transport = cast("asyncio.Transport", writer.transport)
        self._before = cast("asyncio.Protocol", self._transport.get_protocol())
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # nobody would tell
            raise Disconnected("closed at once")

    @property
    def is_closed(self) -> bool:
        """Nothing more can be sent, and nothing more comes."""
        return self._is_closed or self._transport.is_closing()

    def send(self, data: bytes) -> None:
        """Write packed commands; never blocks.

        Raises:
            redis.exceptions.ConnectionError: the connection is lost.
        """
        try:
            self._transport.write(data)
        except RuntimeError as error:  # uvloop's, for a transport that was just closed
            raise Disconnected(str(error)) from error

    def close(self) -> None:
        """Drop the connection, whatever is still on the way."""
        self._transport.abort()
        self._end(Disconnected("closed"))

    def data_received(self, data: bytes) -> None:
        """Parse what is complete."""
        self._reader.feed(data)
        replies = []
        try:
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        except InvalidResponse as error:
            self._transport.abort()
            self._end(error)
        else:
            self._received(replies)

    def eof_received(self) -> bool:
        """Have the transport closed."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
        self._end(Disconnected(str(exc) if exc is not None else "connection closed by the server"))

    def _end(self, error: Exception) -> None:
        if not self._is_closed:
            self._is_closed = True
            # Its public ways to close would wait for the protocol it had.
            self._connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001
            self._lost(error)


class Requests:
    """Sends commands over one wire of its own, which is made when there is none; one call at a time."""

    def __init__(self, redis: Redis, timeout: float) -> None:
        self._pool = redis.connection_pool
        self._timeout = timeout
        self._wire: Wire | None = None
        self._expected = 0
        self._replies: list[Any] = []
        self._answer: asyncio.Future[list[Any]] | None = None

    async def __call__(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands in one write; their replies, in order, errors among them as exceptions.

        Raises:
            shared.connect.FAILURES: the connection failed; any of the commands may have been carried out.
        """
        if not commands:
            return []
        wire = self._wire
        if wire is None or wire.is_closed:
            wire = Wire(self._take, self._fail)
            await wire.open(self._pool)
            self._wire = wire
        self._expected, self._replies = len(commands), []
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timeout):
                wire.send(b"".join([hiredis.pack_command(command) for command in commands]))
                replies = await self._answer
        except BaseException as error:
            wire.close()  # a reply may be half read, or still come
            if isinstance(error, TimeoutError) and not isinstance(error, TimedOut):
                raise TimedOut("no answer in time") from None
            raise
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            wire.close()  # a replica by now: the next connection may find its master
        return replies

    def close(self) -> None:
        """Drop the wire."""
        if self._wire is not None:
            self._wire.close()

    def _take(self, replies: list[Any]) -> None:
        self._replies += replies
        if self._answer is not None and not self._answer.done() and len(self._replies) >= self._expected:
            self._answer.set_result(self._replies)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
