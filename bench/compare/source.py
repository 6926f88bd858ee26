"""The upstream: `python -m bench.compare.source PORT`, an OpenAI-compatible server that costs next to nothing.

Its frames are made beforehand but for the text, which is the delta's number and the moment of its write. What it says
is told by the chat's last message: see `Script`.
"""

import asyncio
import contextlib
import gc
import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import Self, cast

import uvloop

from bench.compare import prose

TEXT_SIZE = 27
"""Of each delta: seven digits of its number, a space, nineteen of its moment in ns."""

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_SCRIPT = re.compile(rb"deltas=(\d+) pace=(\d+) hold=(\d+) prose=(\d+)")
_BLOCK = 16
"""Deltas that go into one write when there is no pace."""

_ENVELOPE = (
    b'data: {"id":"chatcmpl-Bqs0Ny8PHvVbT1mXw6Zr3cKd7LfG2","object":"chat.completion.chunk","created":1760000000,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_44added55e",'
    b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}],"usage":null}\n\n'
)
_ROLE = _ENVELOPE % (b'{"role":"assistant","content":"","refusal":null}', b"null")
_BEFORE, _AFTER = (_ENVELOPE % (b'{"content":"\0"}', b"null")).split(b"\0")
_END = _ENVELOPE % (b"{}", b'"stop"') + b"data: [DONE]\n\n"
_HEAD = b"HTTP/1.%d 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"


@dataclass(frozen=True, slots=True)
class Script:
    """An answer of that many deltas, `pace` of them a second or, at pace 0, as fast as the reader takes them.

    It ends `hold` seconds after the last one. With `prose` above 0 its deltas are that answer's tokens, not stamps.
    """

    deltas: int
    pace: int = 0
    hold: int = 0
    prose: int = 0

    def message(self) -> str:
        """The text that a client puts into its last message."""
        return f"deltas={self.deltas} pace={self.pace} hold={self.hold} prose={self.prose}"

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Read it from a request."""
        return cls(*map(int, _SCRIPT.findall(body)[-1]))


@dataclass(frozen=True, slots=True)
class Framing:
    """The answer's bytes around the deltas' texts, for one version of HTTP."""

    head: bytes
    delta: bytes
    end: bytes

    @classmethod
    def chunked(cls) -> Self:
        """HTTP/1.1: each event is a piece of its own."""
        delta = _BEFORE + b"%07d %019d" + _AFTER
        size = len(_BEFORE) + TEXT_SIZE + len(_AFTER)
        head = _HEAD % (1, b"Transfer-Encoding: chunked\r\n") + _piece(_ROLE)
        return cls(head, b"%x\r\n" % size + delta + b"\r\n", _piece(_END) + _piece(b""))

    @classmethod
    def plain(cls) -> Self:
        """HTTP/1.0: the body as it is."""
        return cls(_HEAD % (0, b"") + _ROLE, _BEFORE + b"%07d %019d" + _AFTER, _END)


def _piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """Answers one request after the other."""

    def __init__(self, chunked: Framing, plain: Framing) -> None:
        self._chunked = chunked
        self._plain = plain
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._script = Script(0)
        self._tokens: list[bytes] = []
        self._framing = chunked
        self._said = 0
        self._due = 0.0
        self._is_paused = False
        self._next: asyncio.TimerHandle | asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none, but acts like one

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not found or len(rest) < size:
            return
        self._received = rest[size:]
        self._framing = self._plain if b" HTTP/1.0\r\n" in head + b"\r\n" else self._chunked
        self._script = Script.of(rest[:size])
        if self._script.prose:
            self._tokens = prose.answer(self._script.prose, self._script.deltas)
        self._said = 0
        self._due = self._loop.time()
        self._transport.write(self._framing.head)
        if self._script.pace:
            self._beat()
        else:
            self._burst()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if not self._script.pace and self._next is None:
            self._burst()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()

    def _delta(self) -> bytes:
        """The next one: its stamp, or its token."""
        if not self._script.prose:
            return self._framing.delta % (self._said, time.monotonic_ns())
        event = _BEFORE + self._tokens[self._said] + _AFTER
        return event if self._framing is self._plain else _piece(event)

    def _beat(self) -> None:
        """Say the next delta, and be back when the one after it is due."""
        self._transport.write(self._delta())
        self._said += 1
        if self._said < self._script.deltas:
            self._due += 1 / self._script.pace
            self._next = self._loop.call_at(self._due, self._beat)
        else:
            self._next = self._loop.call_later(self._script.hold, self._end)

    def _burst(self) -> None:
        """Say the next few deltas, and be back as soon as the others have had their turn."""
        self._next = None
        delta, now = self._framing.delta, time.monotonic_ns()
        last = min(self._said + _BLOCK, self._script.deltas)
        self._transport.write(b"".join([delta % (number, now) for number in range(self._said, last)]))
        self._said = last
        if last == self._script.deltas:
            self._next = self._loop.call_later(self._script.hold, self._end)
        elif not self._is_paused:
            self._next = self._loop.call_soon(self._burst)

    def _end(self) -> None:
        self._next = None
        self._transport.write(self._framing.end)
        if self._framing is self._plain:
            self._transport.close()


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    chunked, plain = Framing.chunked(), Framing.plain()
    await loop.create_server(lambda: Connection(chunked, plain), "127.0.0.1", port, backlog=4096)
    gc.disable()  # nothing here is a cycle for long, and a collection would be a pause in every stream
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
