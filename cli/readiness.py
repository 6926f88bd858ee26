"""Waits for a server to answer, by asking until it does."""

import asyncio
import contextlib
import http.client
import time

from cli.failure import StartFailed
from cli.sockets import reachable

PAUSE = 0.03
ANSWER_TIMEOUT = 3.0
IDENTITY_TIMEOUT = 1.0

PING = b"PING\r\n"
PONG = b"+PONG"
HTTP_OK = b"HTTP/1.1 200"


def get(path: str) -> bytes:
    """An HTTP request whose answer ends with its connection."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


async def wait_for_answer(name: str, host: str, port: int, request: bytes, beginning: bytes, within: float) -> None:
    """Return once a server's answer to `request` has the expected beginning.

    Raises:
        StartFailed: it had not, for `within` seconds; the message quotes the last answer.
    """
    deadline = time.monotonic() + within
    while not (answer := await _ask(host, port, request)).startswith(beginning):
        if time.monotonic() > deadline:
            raise StartFailed(f"{name} was not ready in {within:g} s ({_quote(answer)})")
        await asyncio.sleep(PAUSE)


def is_piropiro(host: str, port: int) -> bool:
    """Whether what listens there is an API of ours."""
    connection = http.client.HTTPConnection(reachable(host), port, timeout=IDENTITY_TIMEOUT)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/openapi.json")
        return b'"title":"Piropiro"' in connection.getresponse().read(1000)
    return False


async def _ask(host: str, port: int, request: bytes) -> bytes:
    """The beginning of the answer, or nothing if there is none."""
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_connection(reachable(host), port)
            with contextlib.closing(writer):
                writer.write(request)
                return await reader.read(4096)
    return b""


def _quote(answer: bytes) -> str:
    """The first and the last line of an answer: of HTTP, its status and body."""
    lines = answer.decode(errors="replace").strip().splitlines()
    return " ".join(dict.fromkeys((lines[0], lines[-1]))) if lines else "it does not answer"
