"""A TCP proxy with weather: what goes through it is delayed, held back, refused, or cut in mid-write."""

import asyncio
import contextlib
import math
import socket
from collections import deque
from random import Random
from typing import cast

_QUEUED_PIECES = 64
"""Pieces that wait in one direction of a connection before the sender is slowed down."""


class Proxy:
    """All connections of one kind, whatever they lead to. The weather holds for all of them."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.delay = 0.0
        self.is_silent = False
        self.cuts = 0
        self.connections: set[_Connection] = set()
        self._doors: list[_Door] = []

    async def listen(self, target: int) -> int:
        """A new port of 127.0.0.1 from which connections go on to the port `target`."""
        door = _Door(self, target)
        self._doors.append(door)
        await door.open()
        return door.port

    def refuse(self) -> None:
        """Break all connections; new ones are refused until `clear`."""
        for door in self._doors:
            door.close()
        for connection in list(self.connections):
            connection.cut()

    def cut(self, share: float, within: int) -> None:
        """Break a `share` of the open connections, each when up to `within` more bytes have gone through it."""
        for connection in list(self.connections):
            if self.random.random() < share:
                connection.fuse = self.random.randint(0, within)
                if connection.fuse == 0:
                    connection.cut()

    def cut_fused(self) -> None:
        """Break those of `cut` that have been too quiet to break."""
        for connection in list(self.connections):
            if connection.fuse is not None:
                connection.cut()

    async def clear(self) -> None:
        """Let the weather be fine, and let through what waited."""
        self.delay, self.is_silent = 0.0, False
        for door in self._doors:
            await door.open()
        for connection in list(self.connections):
            if connection.is_open:
                connection.near.release()
                connection.far.release()

    def close(self) -> None:
        """Accept nothing more and break what is open."""
        for door in self._doors:
            door.leave()
        for connection in list(self.connections):
            connection.abort()


class _Door:
    """A port that stays ours while nobody listens there: a second socket holds it, and whoever connects is refused."""

    def __init__(self, proxy: Proxy, target: int) -> None:
        self._proxy = proxy
        self._target = target
        self._held = _bind(0)
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        port: int = self._held.getsockname()[1]
        return port

    async def open(self) -> None:
        """Let connections in, if it does not yet."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: _Connection(self._proxy, self._target).near, sock=_bind(self.port), backlog=1024
            )

    def close(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def leave(self) -> None:
        """Give the port up."""
        self.close()
        self._held.close()


def _bind(port: int) -> socket.socket:
    """A socket that shares its port with others of ours."""
    bound = socket.socket()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    bound.bind(("127.0.0.1", port))
    return bound


class _Connection:
    """A connection through the proxy: the end that came to us, and the end that we made."""

    def __init__(self, proxy: Proxy, target: int) -> None:
        self.proxy = proxy
        self.fuse: int | None = None
        self.near = _End(self)
        self.far = _End(self)
        self.near.peer, self.far.peer = self.far, self.near
        self._target = target
        self._connecting: asyncio.Task[None] | None = None
        self.is_open = False

    def accept(self) -> None:
        self.proxy.connections.add(self)
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, "127.0.0.1", self._target)
        except OSError:
            self.abort()
            return
        if self not in self.proxy.connections:
            self.far.abort()
            return
        self.is_open = True
        if not self.proxy.is_silent:
            self.near.release()

    def cut(self) -> None:
        """Break it: with what has been written so far delivered or not, as it happens."""
        if self in self.proxy.connections:
            self.proxy.cuts += 1
        if self.proxy.random.random() < 0.5:
            self.near.finish()
            self.far.finish()
        self.abort()

    def close(self) -> None:
        """End it in good order: what has been written is delivered."""
        self.proxy.connections.discard(self)
        self.near.finish()
        self.far.finish()

    def abort(self) -> None:
        self.proxy.connections.discard(self)
        self.near.abort()
        self.far.abort()


class _End(asyncio.Protocol):
    """One end of a connection. What it receives goes to its peer, in order, when the weather allows."""

    peer: "_End"

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False
        self._is_held = False
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        if self is self._connection.near:
            self._connection.accept()

    def data_received(self, data: bytes) -> None:
        proxy, is_held = self._connection.proxy, self._connection.proxy.is_silent or not self._connection.is_open
        if not self._waiting and not proxy.delay and not is_held:
            self._deliver(data)
            return
        earliest = self._waiting[-1][0] if self._waiting else 0.0
        now = asyncio.get_running_loop().time()
        due = math.inf if is_held else now + proxy.random.uniform(0.0, proxy.delay)
        self._waiting.append((max(earliest, due), data))
        self._set_timer()
        self.slow_down()

    def eof_received(self) -> bool:
        self.data_received(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiting:
            self._waiting.append((self._waiting[-1][0], b""))
        elif exc is None:
            self._connection.close()
        else:
            self._connection.abort()

    def pause_writing(self) -> None:
        self._is_full = True
        self.peer.slow_down()

    def resume_writing(self) -> None:
        self._is_full = False
        self.peer.slow_down()

    def slow_down(self) -> None:
        """Receive only as fast as the peer takes it."""
        if self._transport is None:
            return
        is_held = self.peer.is_full or len(self._waiting) > _QUEUED_PIECES
        if is_held != self._is_held:
            self._is_held = is_held
            (self._transport.pause_reading if is_held else self._transport.resume_reading)()

    @property
    def is_full(self) -> bool:
        return self._is_full

    def release(self) -> None:
        """Deliver whatever waits."""
        while self._waiting:
            self._deliver(self._waiting.popleft()[1])
        self.slow_down()

    def _set_timer(self) -> None:
        if self._timer is None and self._waiting and self._waiting[0][0] != math.inf:
            self._timer = asyncio.get_running_loop().call_at(self._waiting[0][0], self._release_due)

    def _release_due(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0][0] <= now:
            self._deliver(self._waiting.popleft()[1])
        self._set_timer()
        self.slow_down()

    def _deliver(self, data: bytes) -> None:
        connection, there = self._connection, self.peer._transport  # noqa: SLF001  # its other half
        if there is None or there.is_closing():
            connection.abort()
        elif not data:
            self._end(there)
        elif connection.fuse is not None and len(data) >= connection.fuse:
            there.write(data[: connection.fuse])
            connection.cut()
        else:
            if connection.fuse is not None:
                connection.fuse -= len(data)
            there.write(data)

    def _end(self, there: asyncio.Transport) -> None:
        """Nothing more comes from here. When both ends have said so, nobody else tells us that it is over."""
        self._has_ended = True
        if self._transport is None or self.peer._has_ended:  # noqa: SLF001  # its other half
            self._connection.close()
            return
        with contextlib.suppress(OSError):  # it has just been closed from the other side
            there.write_eof()

    def finish(self) -> None:
        """Deliver what is written already, then close."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def abort(self) -> None:
        """Close at once."""
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
