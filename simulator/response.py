"""One HTTP response on its way out: its bytes, its pace, and the record of how far it came.

It speaks ASGI directly, because a response object would hide two things: one write may carry several
frames, and a response left without its end makes the server close the connection, which is what a cut is.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping

from starlette.types import Send

from simulator.errors import ApiError
from simulator.journal import Record
from simulator.timeline import End, Step, Strike, Write

_BATCH = 65_536


class Response:
    """Sends one response; whatever ends it is noted in `record` before the client can see it."""

    def __init__(self, send: Send, record: Record) -> None:
        self._send = send
        self._record = record

    async def answer(self, status: int, body: bytes, outcome: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole JSON response."""
        await self._begin(status, "application/json", {"content-length": str(len(body)), **(headers or {})})
        await self._end(outcome, body)

    async def refuse(self, error: ApiError, outcome: str) -> None:
        """Send an error as the response."""
        await self.answer(error.status, error.body(), outcome, error.headers)

    async def break_off(self, body: bytes, outcome: str) -> None:
        """Announce a whole JSON response, send half of it and leave."""
        await self._begin(200, "application/json", {"content-length": str(len(body))})
        await self._write(body[: len(body) // 2], None)
        self._record.close(outcome)

    async def stream(self, steps: Iterator[Step], fragment: int | None) -> None:
        """Send an event stream, each step when it is due, in writes of at most `fragment` bytes."""
        await self._begin(200, "text/event-stream; charset=utf-8", {"cache-control": "no-cache"})
        end = await self._play(steps, fragment)
        outcome = f"fault:{end.fault}" if end.fault else "finished"
        if end.is_clean:
            await self._end(outcome, b"")
        else:
            self._record.close(outcome)

    async def begin_stream(self) -> None:
        """Begin an event stream whose bytes come by `write`; `end_stream` or `abandon` ends it."""
        await self._begin(200, "text/event-stream; charset=utf-8", {"cache-control": "no-cache"})

    async def write(self, data: bytes | bytearray, deltas: int, fragment: int | None) -> None:
        """Send a part of such a stream, of which so many deltas count as sent."""
        self._record.deltas_sent += deltas
        await self._write(bytes(data), fragment)

    async def end_stream(self, outcome: str) -> None:
        """End such a stream as it should be."""
        await self._end(outcome, b"")

    def abandon(self, outcome: str) -> None:
        """Leave such a stream without an end."""
        self._record.close(outcome)

    def note(self, fault: str) -> None:
        """Note in the record that a fault takes effect."""
        self._record.faults.append(fault)

    async def _play(self, steps: Iterator[Step], fragment: int | None) -> End:
        # Deadlines are absolute, so late wake-ups do not add up; only a pause moves what follows it.
        started = time.monotonic()
        now = 0.0
        batch = _Batch()
        for step in steps:
            if isinstance(step, Write):
                if step.due > now:
                    now = time.monotonic() - started
                if step.due > now:
                    await self._flush(batch, fragment)
                    await asyncio.sleep(step.due - (time.monotonic() - started))
                    now = max(step.due, time.monotonic() - started)
                batch.add(step)
                if batch.size < _BATCH:
                    continue
            await self._flush(batch, fragment)
            if isinstance(step, Strike):
                self.note(step.kind)
                await asyncio.sleep(step.pause)
                started += step.pause
            elif isinstance(step, End):
                return step
        raise AssertionError("a plan ends with End")

    async def _flush(self, batch: "_Batch", fragment: int | None) -> None:
        self._record.deltas_sent += batch.deltas
        await self._write(batch.take(), fragment)

    async def _write(self, data: bytes, fragment: int | None) -> None:
        width = fragment or _BATCH
        for start in range(0, len(data), width):
            part = data[start : start + width]
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            if len(data) >= width:
                # Other streams get their turn, and uvloop, which gathers the writes of one turn, keeps parts apart.
                await asyncio.sleep(0)

    async def _begin(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        fields = {"content-type": content_type, "x-request-id": self._record.request_id, **headers}
        encoded = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _end(self, outcome: str, body: bytes) -> None:
        self._record.close(outcome)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


class _Batch:
    """Writes that are due at once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0
        self.deltas = 0

    def add(self, step: Write) -> None:
        self._parts.append(step.data)
        self.size += len(step.data)
        self.deltas += step.deltas

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self.size = self.deltas = 0
        return data
