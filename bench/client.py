"""The client: posts chats to the API over connections that it keeps open."""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

from bench.wire import Message, read_message

_KEPT_IDLE = 2.0


class ApiFailed(Exception):
    """The API answered something else than the bench asked for."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A chat that the API accepted; the moments are of `time.perf_counter`."""

    chat_id: str
    label: str
    sent: float
    answered: float


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: float = 0.0


class Client:
    """Talks to one API replica; every call has a connection to itself while it lasts.

    A connection is left before uvicorn might close it for being idle, so that no call meets one that is closing.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def post(self, label: str) -> Posted:
        """Create a chat whose one message is `label`."""
        body = json.dumps({"messages": [{"role": "user", "content": label}]}).encode()
        sent = time.perf_counter()
        answer = await self._call("POST", "/v1/chats", body)
        answered = time.perf_counter()
        if answer.status != 202:
            raise ApiFailed(f"POST /v1/chats: {answer.start}: {answer.body.decode(errors='replace')}")
        return Posted(json.loads(answer.body)["id"], label, sent, answered)

    async def read(self, chat_id: str) -> dict[str, Any]:
        """The chat as the API describes it."""
        answer = await self._call("GET", f"/v1/chats/{chat_id}")
        if answer.status != 200:
            raise ApiFailed(f"GET /v1/chats/{chat_id}: {answer.start}")
        chat: dict[str, Any] = json.loads(answer.body)
        return chat

    async def is_up(self) -> bool:
        """Whether the API answers at all."""
        try:
            return (await self._call("GET", "/healthz")).status == 200
        except (OSError, EOFError):
            return False

    async def _call(self, method: str, path: str, body: bytes = b"") -> Message:
        connection = await self._connection()
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        try:
            connection.writer.write(f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{length}\r\n".encode() + body)
            answer = await read_message(connection.reader)
        except BaseException:
            connection.writer.close()
            raise
        connection.used = time.monotonic()
        self._idle.append(connection)
        return answer

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.used < _KEPT_IDLE:
                return connection
            connection.writer.close()
        return _Connection(*await asyncio.open_connection("127.0.0.1", self._port))

    async def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.writer.close()
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
        self._idle.clear()
