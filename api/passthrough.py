"""What the API asks the upstream itself, without a chat: which models there are."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from api.errors import ApiError
from shared import json_text
from shared.endpoint import Endpoint, open_session, redact, secrets
from shared.settings import Settings

logger = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds for a whole answer."""

_MAX_BODY = 8_388_608
_KEPT = frozenset({400, 404, 409, 413, 422, 429})


@dataclass(frozen=True, slots=True)
class Passthrough:
    """Passes GET requests on to the upstream. Made inside the event loop: it owns a connection pool."""

    endpoint: Endpoint
    session: aiohttp.ClientSession
    secrets: list[str]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Make it of the same settings that a worker has."""
        return cls(Endpoint.of(settings), open_session(), secrets(settings))

    async def close(self) -> None:
        """Close its connections."""
        await self.session.close()

    async def get(self, path: str) -> bytes:
        """The JSON that the upstream has at `path`, which is percent-encoded and below its base URL.

        Raises:
            ApiError: what it refused with, if that is about the request; else 502, or 504 if it took too long.
        """
        endpoint = self.endpoint
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                self.session.get(
                    endpoint.url(path),
                    headers=endpoint.headers,
                    proxy=endpoint.proxy,
                    proxy_headers=endpoint.proxy_headers,
                ) as response,
            ):
                status, retry_after = response.status, response.headers.get("Retry-After")
                body = await _read(response)
        except TimeoutError:
            raise _failed(504, "The upstream did not answer in time.", "upstream_timeout") from None
        except (aiohttp.ClientError, OSError) as error:
            logger.warning("the upstream could not be asked for %s: %s", path, redact(repr(error), *self.secrets))
            raise _failed(502, "The upstream could not be reached.", "upstream_unreachable") from None
        parsed = _parse(body)
        if not 200 <= status < 300:
            raise self._refused(status, parsed, retry_after)
        if not isinstance(parsed, dict):
            raise _failed(502, "The upstream answered with something else than JSON.", "upstream_garbage")
        return body

    def _refused(self, status: int, body: Any, retry_after: str | None) -> ApiError:
        """The upstream's own error, fit for a client."""
        found = body.get("error", body) if isinstance(body, dict) else None
        error = found if isinstance(found, dict) else {}
        message, type_, param, code = (
            redact(text, *self.secrets) if isinstance(text := error.get(name), str) else None
            for name in ("message", "type", "param", "code")
        )
        return ApiError(
            status if status in _KEPT else 502,
            message or f"The upstream answered {status}.",
            type_=type_ or "upstream_error",
            param=param,
            code=code or "upstream_error",
            headers={"Retry-After": retry_after} if status == 429 and retry_after is not None else None,
        )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, if it is not too long.

    Raises:
        ApiError: 502.
    """
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > _MAX_BODY:
            raise _failed(502, f"The upstream's answer is longer than {_MAX_BODY} bytes.", "upstream_garbage")
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        return json_text.loads(body)
    except ValueError:
        return None


def _failed(status: int, message: str, code: str) -> ApiError:
    return ApiError(status, message, type_="upstream_error", code=code)
