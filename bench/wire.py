"""As much of HTTP/1.1 as the bench needs to be both client and upstream without a library's cost in its figures."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response; `start` is its first line."""

    start: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.start.split(" ", 2)[1])


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Read a message whose body has a Content-Length, or none.

    Raises:
        asyncio.IncompleteReadError: the peer closed the connection.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Message(start, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


def chunk(data: bytes) -> bytes:
    """Frame one piece of a chunked body; the empty piece ends it."""
    return b"%x\r\n%s\r\n" % (len(data), data)
