"""An HTTP server that sends exactly the bytes a test has it send, and a sink for what an adapter makes of them."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n%b\r\n"
END = b"0\r\n\r\n"


def piece(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def response(status, body, headers=b""):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body)


class Server:
    """Plays one script per request: bytes to write, seconds to wait, None to close; then waits for the next request."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.requests = []
        self.connections = 0
        self.written = 0
        self.closed = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                self.requests.append((head.decode(), body))
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                for step in script if isinstance(script, list) else [script]:
                    if step is None:
                        writer.close()
                        return
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                        self.written += len(step)
                    else:
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(reader.read(1), step)
                            return  # the client has closed
        self.closed.set()
        writer.close()


@asynccontextmanager
async def running(*scripts):
    server = Server(*scripts)

    async def serve(reader, writer):
        try:
            await server.serve(reader, writer)
        finally:
            server.closed.set()
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()


class Sink:
    """Takes `size` reads, then none until there is `more`."""

    def __init__(self, size=10**9):
        self.chunks = []
        self.size = size
        self.more = asyncio.Event()

    def take(self, chunks):
        self.chunks += chunks
        self.size -= 1
        return self.size > 0

    async def room(self):
        await self.more.wait()
