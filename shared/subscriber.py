"""One Redis connection that hears any number of channels, for as long as the process lives.

Whoever listens is told of every acknowledgement, also of those after a reconnection. That is the one moment from which
publications are heard, so it is when a listener must look at what it may have missed.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from shared.connect import FAILURES

logger = logging.getLogger(__name__)

_CHUNK = 1000
"""Channels named in one command."""


class Listener(Protocol):
    """Hears one channel. Its methods run on the event loop and must not block."""

    def on_subscribed(self) -> None:
        """Publications are heard from now on; what came before, since the last one heard, may be missing."""

    def on_message(self, payload: bytes) -> None:
        """One publication, in order."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """A listener made of two functions."""

    subscribed: Callable[[], None]
    message: Callable[[bytes], None]

    def on_subscribed(self) -> None:
        self.subscribed()

    def on_message(self, payload: bytes) -> None:
        self.message(payload)


class Subscriber:
    """Subscribes and unsubscribes listeners while `run` runs; at most one listener per channel."""

    def __init__(self, redis: Redis, ping_interval: float = 2.0) -> None:
        self._pool = redis.connection_pool
        self._ping_interval = ping_interval
        self._listeners: dict[bytes, Listener] = {}
        self._outbox: list[tuple[str, bytes]] = []
        self._outbox_filled = asyncio.Event()

    def subscribe(self, channel: str, listener: Listener) -> None:
        """Hear `channel`; `listener.on_subscribed` says when."""
        self._listeners[channel.encode()] = listener
        self._send("SUBSCRIBE", channel.encode())

    def unsubscribe(self, channel: str) -> None:
        """Stop hearing `channel`; its listener is not called any more."""
        del self._listeners[channel.encode()]
        self._send("UNSUBSCRIBE", channel.encode())

    def _send(self, command: str, channel: bytes) -> None:
        self._outbox.append((command, channel))
        self._outbox_filled.set()

    async def run(self) -> None:
        """Hold the connection, and make a new one whenever it is lost; ends only by cancellation."""
        pause = 0.0
        while True:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
            try:
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
                pause = 0.0
                await self._converse(connection)
            except FAILURES as error:
                pause = min(max(2 * pause, 0.05), 1.0)
                logger.warning("subscription lost, reconnecting: %s", error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            finally:
                await connection.disconnect()

    async def _converse(self, connection: AbstractConnection) -> None:
        self._outbox = [("SUBSCRIBE", channel) for channel in self._listeners]
        self._outbox_filled.set()
        writing = asyncio.create_task(self._write(connection))
        reading = asyncio.create_task(self._read(connection))
        try:
            await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, reading):
                task.cancel()
            outcomes = await asyncio.gather(writing, reading, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            outbox, self._outbox = self._outbox, []
            start = 0
            while start < len(outbox):
                command = outbox[start][0]
                end = start
                while end < len(outbox) and outbox[end][0] == command and end - start < _CHUNK:
                    end += 1
                channels = [channel for _, channel in outbox[start:end]]
                await connection.send_command(command, *channels, check_health=False)
                start = end

    async def _read(self, connection: AbstractConnection) -> None:
        is_silent = False
        while True:
            reply: list[Any] | bytes | None = await connection.read_response(
                timeout=self._ping_interval, disconnect_on_error=False
            )
            if reply is None:
                if is_silent:
                    raise ConnectionError("no answer to a ping")
                is_silent = True
                await connection.send_command("PING", check_health=False)
                continue
            is_silent = False
            if isinstance(reply, list):
                self._dispatch(reply)

    def _dispatch(self, reply: list[Any]) -> None:
        kind, channel, payload = reply[0], reply[1], reply[-1]
        listener = self._listeners.get(channel)
        if listener is None:
            return
        if kind == b"message":
            listener.on_message(payload)
        elif kind == b"subscribe":
            listener.on_subscribed()
