"""The upstream: the port the job depends on, and its adapter around aiohttp.

aiohttp keeps what it is good at (connections, TLS, proxies, redirects, the framing of HTTP). The stream's bytes go from
its parser straight to the job, in the callback that received them: a task that awaits each read costs half as much
again as all the rest of a lone delta, and a client library's typed chunks several times more.
"""

import asyncio
import contextlib
import email.utils
import math
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import aiohttp

from shared import json_text
from shared.endpoint import Endpoint, open_session
from shared.settings import Settings
from worker.framing import unframed

_MAX_LINE = 33_554_432
_MAX_ERROR_BODY = 1_048_576
_LF, _CR = b"\n\r"
"""As numbers: for a byte among bytes Python looks much faster than for a sequence of one."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_MAX_BACKOFF = 8.0
_MAX_RETRY_AFTER = 60.0
_END_OF_BODY = 0.1


class UpstreamError(Exception):
    """The upstream did not give a complete answer. But for `reason`, its texts may be the upstream's: see `redact`.

    `is_final`: the same request would fail again, so no further attempt should be made. `is_lost`: nothing more can be
    had of the answer that was begun. `status` is the HTTP status with which it refused, `retry_after` the seconds it
    asked for.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None,
        type_: str = "upstream_error",
        param: str | None = None,
        is_final: bool,
        is_lost: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = code or "upstream_error"
        self.type = type_
        self.param = param
        self.is_final = is_final
        self.is_lost = is_lost
        self.status = status
        self.retry_after = retry_after

    @classmethod
    def of(
        cls,
        body: Mapping[str, Any],
        default: str,
        *,
        is_final: bool,
        is_lost: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> Self:
        """Make one of an upstream's own `error` object, whatever shape it has."""
        message, type_, code, param = (body.get(name) for name in ("message", "type", "code", "param"))
        error = cls(
            message if isinstance(message, str) and message else default,
            code=str(code) if isinstance(code, str | int) else "upstream_error",
            type_=type_ if isinstance(type_, str) else "upstream_error",
            param=param if isinstance(param, str) else None,
            is_final=is_final,
            is_lost=is_lost,
            status=status,
            retry_after=retry_after,
        )
        error.reason = "upstream_error"
        return error


def answer_lost() -> UpstreamError:
    """The answer was begun, and nothing more can be had of it: the next attempt does what the chat chose."""
    message = "The upstream cannot go on with its answer."
    return UpstreamError(message, code="upstream_lost", is_final=False, is_lost=True)


@dataclass(frozen=True, slots=True)
class Generation:
    """What is known of an answer that may have been begun already.

    `key` names it, whoever asks for it and how often; `id` is what the upstream calls it, if it can go on with it and
    has said so; `chunks` is all that was stored of it then.
    """

    key: str
    id: str | None = None
    chunks: Sequence[Mapping[str, Any]] = ()


class Sink(Protocol):
    """Where an answer goes as it arrives. Its methods may raise: that ends the stream, with the same error."""

    async def begin(self, answer_id: str) -> None:
        """Note, before any chunk is taken, what the upstream calls the answer; only if it can go on with it."""
        ...

    def take(self, chunks: Sequence[bytes]) -> bool:
        """Take the chunks (JSON objects as bytes, undecoded) of one read, in order; False to get no more for now."""
        ...

    async def room(self) -> None:
        """Wait until more may come."""
        ...


class Upstream(Protocol):
    """Whatever streams chat completions."""

    async def stream(self, request: bytes, sink: Sink, generation: Generation) -> None:
        """Send `request`, a Chat Completions body as JSON, and give its chunks to `sink` as they arrive.

        If the generation has an id, only the chunks that follow those that it has. It returns after the upstream's
        `[DONE]` or end of stream, whichever comes first; whether the answer is complete is for the caller to see.
        Cancelling it closes the connection.

        Raises:
            UpstreamError: refused, unreachable, stalled or cut.
        """
        ...

    def abandon(self, answer_id: str) -> None:
        """Have the upstream stop an answer that nobody wants any more, as far as that is possible; returns at once."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


class UpstreamClient:
    """Requests to the upstream, with its headers, retries and time-outs.

    Made inside the event loop: it owns the connection pool.
    """

    def __init__(self, settings: Settings) -> None:
        self._retries = settings.upstream_retries
        self._stall_timeout = settings.stall_timeout
        self._endpoint = Endpoint.of(settings)
        self._session = open_session()

    async def close(self) -> None:
        """Close the connection pool."""
        await self._session.close()

    async def stream(self, request: "UpstreamRequest", sink: Sink) -> None:
        """Send the request and give the data of each event in its answer to `sink`; see `Upstream.stream`.

        408, 429, 5xx and failed connections are retried before the stream has begun.
        """
        response = await self._open(request)
        body = _Body(response, sink, self._stall_timeout)
        try:
            await body.pass_on()
        except TimeoutError:
            raise self._stalled() from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamError(
                "The upstream cut the connection.", code="upstream_disconnected", is_final=False
            ) from None
        finally:
            body.leave()

    async def fetch(self, request: "UpstreamRequest") -> Mapping[str, Any]:
        """Send the request and give the JSON object that it is answered with.

        Raises:
            UpstreamError: as for `stream`.
        """
        response = await self._open(request)
        try:
            async with asyncio.timeout(self._stall_timeout):
                return await _read_object(response, _MAX_LINE)
        except TimeoutError:
            raise self._stalled() from None
        except (aiohttp.ClientError, OSError) as failure:
            raise self._unreachable(failure) from None

    async def _open(self, request: "UpstreamRequest") -> aiohttp.ClientResponse:
        url = self._endpoint.url(request.path)
        for retry in range(self._retries + 1):
            try:
                async with asyncio.timeout(self._stall_timeout):
                    response = await self._session.request(
                        request.method,
                        url.update_query(request.query) if request.query else url,
                        data=request.body,
                        headers={**self._endpoint.headers, **request.headers},
                        proxy=self._endpoint.proxy,
                        proxy_headers=self._endpoint.proxy_headers,
                    )
                    if 200 <= response.status < 300:
                        return response
                    error = await _error_body(response)
            except (aiohttp.ClientError, OSError, TimeoutError) as failure:
                if retry == self._retries:
                    raise self._unreachable(failure) from None
                pause = None
            else:
                status, pause = response.status, retry_after(response.headers.get("Retry-After"), time.time())
                is_final = status not in (408, 429) and status < 500
                if is_final or retry == self._retries:
                    # After our own retries it is final.
                    message = f"The upstream answered {status}."
                    raise UpstreamError.of(error, message, is_final=True, status=status, retry_after=pause)
            await asyncio.sleep(backoff(retry) if pause is None else pause)
        raise AssertionError("unreachable")

    def _unreachable(self, failure: Exception) -> UpstreamError:
        if isinstance(failure, TimeoutError) and not isinstance(failure, aiohttp.ClientError):
            return self._stalled()
        return UpstreamError("The upstream could not be reached.", code="upstream_unreachable", is_final=True)

    def _stalled(self) -> UpstreamError:
        return UpstreamError(
            f"The upstream sent nothing for {self._stall_timeout:g} s.", code="upstream_stalled", is_final=False
        )


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request; `path` is percent-encoded, and below the API's base."""

    method: str
    path: str
    body: bytes | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class OpenAIUpstream:
    """A server that speaks Chat Completions. One per process, made inside the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._client = UpstreamClient(settings)

    async def close(self) -> None:
        """Close the connection pool."""
        await self._client.close()

    async def stream(self, request: bytes, sink: Sink, generation: Generation) -> None:
        """See `Upstream.stream`; it goes on with none, such as workers with another `PIROPIRO_UPSTREAM` begin."""
        if generation.id is not None:
            raise answer_lost()
        await self._client.stream(UpstreamRequest("POST", "chat/completions", request), sink)

    def abandon(self, answer_id: str) -> None:
        """See `Upstream.abandon`; its connection is closed, and that is all one can do."""


async def _error_body(response: aiohttp.ClientResponse) -> Mapping[str, Any]:
    """The upstream's own `error` object; empty if it sent something else."""
    parsed = await _read_object(response, _MAX_ERROR_BODY)
    error = parsed.get("error", parsed)
    return error if isinstance(error, dict) else {}


async def _read_object(response: aiohttp.ClientResponse, limit: int) -> Mapping[str, Any]:
    """The JSON object that is the response's body; empty if it is something else, or longer than `limit` bytes."""
    body = bytearray()
    try:
        while len(body) <= limit and (data := await response.content.readany()):
            body += data
    except RuntimeError:  # aiohttp's word for a connection that was lost before
        raise aiohttp.ServerDisconnectedError from None
    finally:
        _leave(response)
    try:
        parsed = json_text.loads(bytes(body))
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _leave(response: aiohttp.ClientResponse) -> None:
    """Give the connection back if the response was read to its end; else close it at once."""
    if not response.content.is_eof() and response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()  # a graceful end would first wait for what is still to be sent
    response.close()


class _Body(asyncio.Protocol):
    """Passes a response's body on to a sink, from within the connection's callbacks.

    It stands between the connection and aiohttp's protocol, which takes the bytes first and leaves what they contain
    in the response's buffer. While the sink is full they stay there, until aiohttp stops reading the connection.

    A read of whole chunks goes past aiohttp if that is between two chunks, and so has missed nothing afterwards. It was
    if it made of the last read what `unframed` makes of it.
    """

    def __init__(self, response: aiohttp.ClientResponse, sink: Sink, stall_timeout: float) -> None:
        self._response = response
        self._content = response.content
        self._sink = sink
        self._decoder = DataDecoder()
        self._stall_timeout = stall_timeout
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._left = b""
        self._is_between_chunks = False
        self._is_lost = False
        self._is_over = self._loop.create_future()
        """True at the end, False when the sink is full."""
        # A short answer has arrived as a whole and given its connection back.
        self._transport = response.connection.transport if response.connection is not None else None
        # Not the transport's: that may be the body before this one, whose job has not noticed yet that it is through.
        self._inner = response.connection.protocol if response.connection is not None else None

    async def pass_on(self) -> None:
        """Give the sink everything up to `[DONE]` or the end.

        Raises:
            aiohttp.ClientError, OSError: the connection failed before the end of the body.
            TimeoutError: nothing came for too long.
        """
        if self._transport is not None:
            self._transport.set_protocol(self)
        self._watch(self._stall_timeout)
        try:
            self._take()
            while not await self._is_over:
                await self._sink.room()
                self._is_over = self._loop.create_future()
                self._heard = self._loop.time()
                self._take()
        finally:
            self._timer.cancel()
            # aiohttp gives a connection away as soon as the body has ended: it may have another body's by now.
            if self._transport is not None and self._transport.get_protocol() is self:
                self._transport.set_protocol(self._inner)  # type: ignore[arg-type]  # there is one if there is the other
        await self._exhaust()

    async def _exhaust(self) -> None:
        """Read what follows `[DONE]`, usually the end of the body alone: only then can the connection be used again."""
        # A RuntimeError is aiohttp's word for a connection that was lost before.
        with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError):
            async with asyncio.timeout(_END_OF_BODY):
                while not self._content.at_eof():
                    await self._content.readany()

    def leave(self) -> None:
        """Give the connection back, or close it at once if the body was not read to its end."""
        _leave(self._response)

    def data_received(self, data: bytes) -> None:
        """Pass on what the bytes contain; aiohttp takes them out of their framing where that is not plain."""
        self._heard = self._loop.time()
        is_full, body = self._is_over.done(), unframed(data)
        if self._is_between_chunks and body is not None and not is_full:
            self._give(body)
            return
        self._is_between_chunks = False
        self._inner.data_received(data)  # type: ignore[union-attr]  # without one, nothing is received
        if not is_full and self._content.exception() is None:
            received = self._content.read_nowait()
            self._is_between_chunks = received == body
            self._give(received)
        self._take()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()  # type: ignore[union-attr]  # the same

    def connection_lost(self, exc: Exception | None) -> None:
        if self._content.exception() is None:
            while data := self._content.read_nowait():  # which would give nothing but the error afterwards
                self._left += data
        self._is_lost = True
        self._inner.connection_lost(exc)  # type: ignore[union-attr]  # the same
        self._take()

    def pause_writing(self) -> None:
        self._inner.pause_writing()  # type: ignore[union-attr]  # the same

    def resume_writing(self) -> None:
        self._inner.resume_writing()  # type: ignore[union-attr]  # the same

    def _take(self) -> None:
        """Pass on what aiohttp keeps, until the sink is full."""
        try:
            # What follows `[DONE]` may be an error, and is nobody's concern.
            while not (self._is_over.done() or self._decoder.is_done) and (data := self._next()):
                self._give(data)
            if self._is_over.done():
                return
            if self._decoder.is_done or self._content.at_eof():
                self._is_over.set_result(True)
            elif self._is_lost:
                raise aiohttp.ServerDisconnectedError  # noqa: TRY301  # aiohttp has not noticed, after a bad framing
        except Exception as error:  # noqa: BLE001  # raised where the future is awaited
            self._is_over.set_exception(error)

    def _give(self, data: bytes) -> None:
        """Pass on `data`, and note if that was all, or all that the sink takes now."""
        try:
            chunks = self._decoder.feed(data)
            if chunks and not self._sink.take(chunks):
                self._is_over.set_result(False)
            elif self._decoder.is_done:
                self._is_over.set_result(True)
        except Exception as error:  # noqa: BLE001  # raised where the future is awaited
            self._is_over.set_exception(error)

    def _next(self) -> bytes:
        if self._left:
            data, self._left = self._left, b""
            return data
        return self._content.read_nowait()

    def _watch(self, pause: float) -> None:
        self._timer = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        """Find out whether the upstream has been silent for too long; a timer per read would cost more."""
        silence = self._loop.time() - self._heard
        if self._is_over.done():
            self._watch(self._stall_timeout)  # the sink is full: it is not the upstream's silence
        elif silence < self._stall_timeout:
            self._watch(self._stall_timeout - silence)
        else:
            self._is_over.set_exception(TimeoutError())


class DataDecoder:
    """Splits an event stream into the data of its events, at any byte split (WHATWG HTML, 9.2.6).

    Only `data` matters here; other fields and comments are skipped. After `[DONE]` everything is ignored.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """Take the next bytes; give the data of every event that they complete.

        Raises:
            UpstreamError: a line is longer than any answer may be.
        """
        if self.is_done:
            return []
        if not self._rest and not self._data and received.startswith(b"data: {") and received.endswith(b"\n\n"):
            data = received[6:-2]
            if _LF not in data and _CR not in data:  # one event, whole, as nearly all reads are
                return [data]
        buffer = self._rest + received
        if b"\r" in buffer:
            # A last CR may be half of a CRLF: it waits for what follows.
            end = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
            lines = _LINE_END.split(buffer[:end])
            self._rest = lines.pop() + buffer[end:]
        else:
            lines = buffer.split(b"\n")
            self._rest = lines.pop()
        if len(self._rest) > _MAX_LINE:
            raise UpstreamError("The upstream sent an endless line.", code="upstream_garbage", is_final=False)
        return self._events(lines)

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                data = b"\n".join(self._data)
                self._data.clear()
                if data == b"[DONE]":
                    self.is_done = True
                    break
                events.append(data)
        return events


def backoff(retry: int) -> float:
    """Seconds to wait before retry 0, 1, …: doubling from half a second, with jitter."""
    return min(0.5 * 2.0**retry, _MAX_BACKOFF) * random.uniform(0.75, 1.0)


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number or a date; None if it asks nothing."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - now
        except ValueError:
            return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if math.isfinite(seconds) else None
