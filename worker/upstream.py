"""The upstream: the port the job depends on, and its adapter around the OpenAI SDK.

The SDK keeps what it is good at (connections, authentication, error classes); the stream's bytes are decoded here,
because typed chunks cost several times more and would drop what their types do not know.
"""

import asyncio
import contextlib
import email.utils
import math
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, Self

import httpx2
import openai
from openai import APIConnectionError, APIStatusError, AsyncAPIResponse, AsyncOpenAI

from shared.settings import Settings

_SECRETS = re.compile(r"\b(?:sk|pk|rk)-[\w*.…-]{3,}|(?i:bearer)\s+\S+|(?<=://)[^/\s@]+@")
_MAX_MESSAGE = 2000
_MAX_LINE = 33_554_432
_LINE_END = re.compile(rb"\r\n|\n|\r")
_MAX_BACKOFF = 8.0
_MAX_RETRY_AFTER = 60.0
_END_OF_BODY = 0.1
_STREAM_HEADERS = {"Content-Type": "application/json", "X-Stainless-Raw-Response": "stream"}


class UpstreamError(Exception):
    """The upstream did not give a complete answer. But for `reason`, its texts may be the upstream's: see `redact`.

    `is_final`: the same request would fail again, so no further attempt should be made.
    """

    def __init__(
        self, message: str, *, code: str | None, type_: str = "upstream_error", param: str | None = None, is_final: bool
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = code or "upstream_error"
        self.type = type_
        self.param = param
        self.is_final = is_final

    @classmethod
    def of(cls, body: Mapping[str, Any], default: str, *, is_final: bool) -> Self:
        """Make one of an upstream's own `error` object, whatever shape it has."""
        message, type_, code, param = (body.get(name) for name in ("message", "type", "code", "param"))
        error = cls(
            message if isinstance(message, str) and message else default,
            code=str(code) if isinstance(code, str | int) else "upstream_error",
            type_=type_ if isinstance(type_, str) else "upstream_error",
            param=param if isinstance(param, str) else None,
            is_final=is_final,
        )
        error.reason = "upstream_error"
        return error


class Upstream(Protocol):
    """Whatever streams chat completions."""

    def stream(self, request: bytes) -> AsyncIterator[Sequence[bytes]]:
        """Send `request`, a Chat Completions body as JSON, and give its chunks as they arrive.

        Each item holds the chunks (JSON objects as bytes, undecoded) of one read, in order. It ends with the
        upstream's `[DONE]` or end of stream, whichever comes first; whether the answer is complete is for the caller
        to see. Closing the iterator closes the connection.

        Raises:
            UpstreamError: refused, unreachable, stalled or cut.
        """
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


class OpenAIUpstream:
    """An OpenAI-compatible server. One per process: it owns the SDK's client and thereby the connection pool."""

    def __init__(self, settings: Settings) -> None:
        self._retries = settings.upstream_retries
        self._stall_timeout = settings.stall_timeout
        connections = settings.max_jobs + 10
        timeout = httpx2.Timeout(settings.stall_timeout, connect=5.0)
        self._client = AsyncOpenAI(
            # A server without authentication needs no key, but the SDK insists on one.
            api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none",
            # Not None: the SDK would take an empty variable for an address.
            base_url=settings.openai_base_url or "https://api.openai.com/v1",
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=timeout,
                limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            ),
        )

    async def close(self) -> None:
        """Close the connection pool."""
        await self._client.close()

    async def stream(self, request: bytes) -> AsyncIterator[Sequence[bytes]]:
        """See `Upstream.stream`. 408, 429, 5xx and failed connections are retried before the stream has begun."""
        response = await self._open(request)
        try:
            decoder, body = DataDecoder(), response.iter_bytes()
            async for data in body:
                chunks = decoder.feed(data)
                if chunks:
                    yield chunks
                if decoder.is_done:
                    await _exhaust(body)
                    return
        except httpx2.TimeoutException:
            raise self._stalled() from None
        except httpx2.HTTPError:
            raise UpstreamError(
                "The upstream cut the connection.", code="upstream_disconnected", is_final=False
            ) from None
        finally:
            await response.close()

    async def _open(self, request: bytes) -> AsyncAPIResponse[Any]:
        for retry in range(self._retries + 1):
            try:
                return await self._client.post(
                    "/chat/completions",
                    cast_to=AsyncAPIResponse[Any],
                    content=request,
                    options={"headers": _STREAM_HEADERS},
                )
            except APIStatusError as error:
                is_final = error.status_code not in (408, 429) and error.status_code < 500
                if is_final or retry == self._retries:
                    raise self._refused(error) from None
                pause = retry_after(error.response.headers.get("retry-after"), time.time())
            except (APIConnectionError, httpx2.HTTPError) as error:
                # The SDK reads an error's body outside of its own error handling: hence httpx2's.
                if retry == self._retries:
                    raise self._unreachable(error) from None
                pause = None
            await asyncio.sleep(backoff(retry) if pause is None else pause)
        raise AssertionError("unreachable")

    def _refused(self, error: APIStatusError) -> UpstreamError:
        """Translate an HTTP error; after our own retries it is final."""
        body = error.body if isinstance(error.body, dict) else {}
        return UpstreamError.of(body, f"The upstream answered {error.status_code}.", is_final=True)

    def _unreachable(self, error: Exception) -> UpstreamError:
        cause = error.__cause__ or error
        if isinstance(cause, httpx2.TimeoutException) and not isinstance(cause, httpx2.ConnectTimeout):
            return self._stalled()
        return UpstreamError("The upstream could not be reached.", code="upstream_unreachable", is_final=True)

    def _stalled(self) -> UpstreamError:
        return UpstreamError(
            f"The upstream sent nothing for {self._stall_timeout:g} s.", code="upstream_stalled", is_final=False
        )


async def _exhaust(body: AsyncIterator[bytes]) -> None:
    """Read what follows `[DONE]`, usually the end of the body alone: only then can the connection be used again."""
    with contextlib.suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(_END_OF_BODY):
            async for _ in body:
                pass


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


def redact(text: str, key: str) -> str:
    """Make an upstream's text fit for a client: without `key` or what looks like a credential, and not too long."""
    if key:
        text = text.replace(key, "***")
    return _SECRETS.sub("***", text)[:_MAX_MESSAGE]


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
