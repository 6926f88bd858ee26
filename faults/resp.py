"""Redis's protocol (RESP2), for looking into the server beside the product."""

import asyncio
from collections.abc import Sequence
from typing import Any

_PATIENCE = 3.0

Argument = str | bytes | int


class Unavailable(Exception):
    """The server did not answer; the command may have been carried out."""


class Refused(Exception):
    """The server answered with an error."""


class Redis:
    """One connection to 127.0.0.1, made when it is needed and again after it broke; its users take turns."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, *arguments: Argument) -> Any:
        """One command's reply.

        Raises:
            Unavailable, Refused: see there.
        """
        (reply,) = await self.pipeline([arguments])
        if isinstance(reply, Refused):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The replies of commands sent together; one that was refused is an instance of `Refused`.

        Raises:
            Unavailable: see there.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(_PATIENCE):
                    reader, writer = await self._connection()
                    writer.write(b"".join(map(_encode, commands)))
                    return [await _read(reader) for _ in commands]
            except (OSError, EOFError, TimeoutError) as error:
                self._drop()
                raise Unavailable(repr(error)) from error
            except BaseException:
                self._drop()
                raise

    async def insist(self, *commands: Sequence[Argument]) -> list[Any]:
        """The same, again and again until the server answers that it is ready."""
        while True:
            try:
                replies = await self.pipeline(commands)
            except Unavailable:
                await asyncio.sleep(0.1)
                continue
            if not any(isinstance(reply, Refused) and str(reply).startswith("LOADING") for reply in replies):
                return replies
            await asyncio.sleep(0.05)

    async def scan(self, pattern: str) -> list[str]:
        """All keys that match."""
        keys, cursor = set[str](), b"0"
        while True:
            ((cursor, found),) = await self.insist(("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))
            keys |= {key.decode() for key in found}
            if cursor == b"0":
                return sorted(keys)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def close(self) -> None:
        """Leave the server."""
        self._drop()


def _encode(arguments: Sequence[Argument]) -> bytes:
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


async def _read(reader: asyncio.StreamReader) -> Any:
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    match kind:
        case b"+":
            return rest
        case b"-":
            return Refused(rest.decode())
        case b":":
            return int(rest)
        case b"$":
            return (await reader.readexactly(int(rest) + 2))[:-2] if rest != b"-1" else None
        case b"*":
            return [await _read(reader) for _ in range(int(rest))] if rest != b"-1" else None
        case _:
            raise OSError(f"no reply: {line!r}")
