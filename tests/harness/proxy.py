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
