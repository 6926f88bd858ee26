"""As much of HTTP/1.1 as a client needs whose connection may break at any byte: one request per connection."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

PATIENCE = 10.0
"""Seconds of silence after which an answer that is no stream is given up."""


_LINE_BREAK = b"\r\n"


class Broken(Exception):
    """The answer ended before its end, or is no HTTP."""


FAILURES = (OSError, EOFError, TimeoutError, Broken)
"""What a request may raise; whether it was carried out is unknown then."""


@dataclass
class Answer:
    """A response whose body is still to come. `silence`: seconds without a byte after which it counts as broken."""

    status: int
    headers: dict[str, str]
    _reader: asyncio.StreamReader
    _silence: float
    is_complete: bool = False

    async def pieces(self, size: int = 65_536) -> AsyncIterator[bytes]:
        """The body as it comes, also the beginning of what never ends.

        Raises:
            FAILURES: it broke off.
        """
        body = _Body(self.headers)
        while not body.is_complete:
            async with asyncio.timeout(self._silence):
                data = await self._reader.read(size)
            if not data:
                raise Broken("the connection closed in mid-answer")
            piece = body.feed(data)
            if piece:
                yield piece
        self.is_complete = True

    async def json(self) -> Any:
        """The whole body, parsed."""
        text = b"".join([piece async for piece in self.pieces()])
        try:
            return json.loads(text)
        except ValueError:
            raise Broken(f"no JSON: {text[:80]!r}") from None


@asynccontextmanager
async def request(
    port: int,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    silence: float = PATIENCE,
    buffer: int | None = None,
) -> AsyncIterator[Answer]:
    """Send a request to 127.0.0.1 and give its answer; leaving closes the connection, wherever the answer is.

    `buffer` bounds what is received ahead of reading, so that a slow reader is felt by the sender.

    Raises:
        FAILURES: no answer came.
    """
    peer = socket.socket()
    try:
        peer.setblocking(False)  # the standard library's signature
        if buffer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        async with asyncio.timeout(silence):
            await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=peer, limit=buffer or 65_536)
    except BaseException:
        peer.close()
        raise
    try:
        lines = {"Host": "piropiro", "Connection": "close", **(headers or {})}
        if body:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
        async with asyncio.timeout(silence):
            answer_head = await reader.readuntil(b"\r\n\r\n")
        status, answer_headers = _parse_head(answer_head)
        yield Answer(status, answer_headers, reader, silence)
    except asyncio.LimitOverrunError:
        raise Broken("an endless head") from None
    finally:
        writer.transport.abort()


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    start, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = start.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise Broken(f"no HTTP: {start[:80]!r}")
    pairs = (line.partition(":") for line in lines)
    return int(parts[1]), {name.lower(): value.strip() for name, _, value in pairs}


class _Body:
    """Takes a body's bytes off their framing: chunked, or of a known length."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._is_chunked = headers.get("transfer-encoding") == "chunked"
        self._left = 0 if self._is_chunked else int(headers.get("content-length", "0"))
        self._is_between = False
        self._rest = b""
        self.is_complete = not self._is_chunked and self._left == 0

    def feed(self, data: bytes) -> bytes:
        if not self._is_chunked:
            self._left -= len(data)
            self.is_complete = self._left <= 0
            return data
        self._rest += data
        pieces = []
        while not self.is_complete and self._rest:
            if self._left:
                piece, self._rest = self._rest[: self._left], self._rest[self._left :]
                pieces.append(piece)
                self._left -= len(piece)
                self._is_between = self._left == 0
            elif self._is_between:
                if len(self._rest) < len(_LINE_BREAK):
                    break
                self._rest, self._is_between = self._rest[len(_LINE_BREAK) :], False
            else:
                line, ended, rest = self._rest.partition(_LINE_BREAK)
                if not ended:
                    break
                self._rest, self._left = rest, _parse_size(line)
                self.is_complete = self._left == 0
        return b"".join(pieces)


def _parse_size(line: bytes) -> int:
    try:
        return int(line, 16)
    except ValueError:
        raise Broken(f"no chunk: {line[:80]!r}") from None
