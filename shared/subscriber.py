"""One Redis connection that hears any number of channels, for as long as the process lives.

Whoever listens is told of every acknowledgement, also of those after a reconnection. That is the one moment from which
publications are heard, so it is when a listener must look at what it may have missed.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import hiredis
from redis.asyncio import Redis

from shared.connect import FAILURES
from shared.wire import Wire

logger = logging.getLogger(__name__)

_PING = hiredis.pack_command(("PING",))
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
        self._redis = redis
        self._ping_interval = ping_interval
        self._listeners: dict[bytes, Listener] = {}
        self._outbox: list[tuple[str, bytes]] = []
        self._wire: Wire | None = None
        self._is_silent = False
        self._refusal: Exception | None = None

    def subscribe(self, channel: str, listener: Listener) -> None:
        """Hear `channel`; `listener.on_subscribed` says when."""
        self._listeners[channel.encode()] = listener
        self._send("SUBSCRIBE", channel.encode())

    def unsubscribe(self, channel: str) -> None:
        """Stop hearing `channel`; its listener is not called any more."""
        del self._listeners[channel.encode()]
        self._send("UNSUBSCRIBE", channel.encode())

    def _send(self, command: str, channel: bytes) -> None:
        """Send it soon, together with what else comes up in the meantime; a new connection subscribes to all anyway."""
        if self._wire is None:
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._send_outbox)
        self._outbox.append((command, channel))

    def _send_outbox(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._wire is None or self._wire.is_closed:
            return
        for command, group in groupby(outbox, key=itemgetter(0)):
            for some in _batched([channel for _, channel in group], _CHUNK):
                self._wire.send(hiredis.pack_command((command, *some)))

    async def run(self) -> None:
        """Hold the connection, and make a new one whenever it is lost; ends only by cancellation."""
        pause = 0.0
        while True:
            lost = asyncio.get_running_loop().create_future()
            wire = Wire(self._on_replies, lost.set_result)
            try:
                await wire.open(self._redis.connection_pool)
                pause = 0.0
                await self._converse(wire, lost)
            except FAILURES as error:
                pause = min(max(2 * pause, 0.05), 1.0)
                logger.warning("subscription lost, reconnecting: %s", error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _converse(self, wire: Wire, lost: asyncio.Future[Exception]) -> None:
        """Subscribe to everything, then see that the server is alive; ends only by an exception."""
        self._refusal = None
        self._wire, self._outbox = wire, [("SUBSCRIBE", channel) for channel in self._listeners]
        try:
            self._send_outbox()
            while True:
                self._is_silent = True
                await asyncio.wait([lost], timeout=self._ping_interval)
                if self._is_silent and not lost.done():
                    wire.send(_PING)
                    await asyncio.wait([lost], timeout=self._ping_interval)
                    if self._is_silent and not lost.done():
                        raise ConnectionError("no answer to a ping")
                if lost.done():
                    raise self._refusal or lost.result()
        finally:
            self._wire = None
            wire.close()

    def _on_replies(self, replies: list[Any]) -> None:
        self._is_silent = False
        for reply in replies:
            if isinstance(reply, Exception):
                self._refusal = reply  # of a subscription: nothing would be heard, in silence
                if self._wire is not None:
                    self._wire.close()
                return
            kind, channel, payload = reply[0], reply[1], reply[-1]
            listener = self._listeners.get(channel)
            if listener is None:
                continue
            if kind == b"message":
                listener.on_message(payload)
            elif kind == b"subscribe":
                listener.on_subscribed()


def _batched(channels: list[bytes], count: int) -> Iterator[list[bytes]]:
    return (channels[start : start + count] for start in range(0, len(channels), count))
