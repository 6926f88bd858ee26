"""A TCP proxy that breaks connections on purpose."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards connections, and cuts each after so many bytes of its answer."""

    def __init__(self, target: str, cut_after: int) -> None:
        address = urlsplit(target)
        self._host, self._port = address.hostname, address.port
        self._cut_after = cut_after
        self.connections = 0
        self.url = ""

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream, request = await asyncio.open_connection(self._host, self._port)
        asking = asyncio.create_task(_copy(reader, request))
        try:
            left = self._cut_after
            while left > 0 and (part := await upstream.read(left)):
                writer.write(part)
                await writer.drain()
                left -= len(part)
        except ConnectionError:
            pass  # the client left first
        finally:
            asking.cancel()
            for end in (request, writer):
                end.transport.abort()
                with suppress(OSError):
                    await end.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while part := await reader.read(65536):
            writer.write(part)
        writer.transport.abort()


@asynccontextmanager
async def cutting_proxy(target: str, cut_after: int) -> AsyncIterator[CuttingProxy]:
    """A proxy to `target` (a URL); its own URL is `proxy.url`."""
    proxy = CuttingProxy(target, cut_after)
    forwarding = set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarding.add(asyncio.create_task(proxy.forward(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await asyncio.gather(*forwarding)


class BreakingProxy:
    """Forwards connections until it is told to break them, each after so many more bytes, whichever way they go."""

    def __init__(self, target: int) -> None:
        self.broken = 0
        self.port = 0
        self._target = target
        self._links = set[_Link]()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link((writer.transport, back.transport))
        self._links.add(link)
        try:
            await asyncio.gather(link.copy(reader, back), link.copy(there, writer))
        finally:
            link.abort()
            self._links.discard(link)
            self.broken += link.left is not None

    def break_all(self, after: int) -> None:
        """Break what is open, within requests, replies or between them."""
        for link in self._links:
            link.left = after


class _Link:
    """One connection through a `BreakingProxy`; `left`: bytes until it breaks."""

    def __init__(self, ends: tuple[asyncio.WriteTransport, asyncio.WriteTransport]) -> None:
        self.left: int | None = None
        self._ends = ends

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(65536):
                passed = part if self.left is None else part[: self.left]
                writer.write(passed)
                await writer.drain()
                if self.left is not None:
                    self.left -= len(passed)
                    if self.left <= 0:
                        break
        self.abort()

    def abort(self) -> None:
        for end in self._ends:
            end.abort()


@asynccontextmanager
async def breaking_proxy(target: int) -> AsyncIterator[BreakingProxy]:
    """A proxy to the port `target`; its own port is `proxy.port`."""
    proxy = BreakingProxy(target)
    forwarding = set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarding.add(asyncio.create_task(proxy.forward(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.break_all(after=0)
        for task in forwarding:
            task.cancel()
        await asyncio.gather(*forwarding, return_exceptions=True)
