"""Every error the API answers with, in OpenAI's envelope: `{"error": {"message", "type", "param", "code"}}`."""

import logging
import math
from asyncio import timeout
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shared import json_text
from shared.connect import FAILURES
from shared.events import Entry, Kind

logger = logging.getLogger(__name__)

REDIS_PATIENCE = 1.5
"""Seconds that a request waits for Redis, all its commands together, before it is answered 503; the contract says 2."""


class ApiError(Exception):
    """An answer other than success: `status`, the envelope's members, and further headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type_
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json_response({"error": body}, self.status, self.headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer that can hold whatever text an upstream produced."""
    return Response(json_text.dumps(content), status, dict(headers or {}), media_type="application/json")


def unknown_chat(chat_id: str) -> ApiError:
    """404: never created, or expired."""
    return ApiError(404, f"There is no chat {chat_id[:64]!r} (any more).", param="id", code="chat_not_found")


def lost_cursor(param: str) -> ApiError:
    """410: the cursor names no entry of the log."""
    return ApiError(
        410,
        "The cursor names no entry of the chat's log; read the stream again from the start.",
        param=param,
        code="cursor_lost",
    )


def unavailable() -> ApiError:
    """503: Redis did not answer in time."""
    return ApiError(
        503,
        "The queue is not reachable right now; try again.",
        type_="server_error",
        code="redis_unavailable",
        headers={"Retry-After": "1"},
    )


_KEPT = frozenset({400, 404, 409, 413, 422, 429})
"""What an upstream may refuse with that is about the client's request; other statuses are between the two of us."""

_TIMEOUTS = frozenset({"job_timeout", "queue_timeout", "upstream_stalled"})


def unanswered(terminal: Entry, headers: Mapping[str, str] | None = None) -> ApiError:
    """The HTTP error of a chat that ended with `terminal`, which is not `done`, before anything was sent of it.

    An SDK would try most of them again, which the worker has done already: `x-should-retry` says so.
    """
    final = {**(headers or {}), "x-should-retry": "false"}
    if terminal.kind is Kind.CANCELLED:
        return ApiError(409, "The chat was cancelled.", type_="cancelled", code="cancelled", headers=final)
    payload = terminal.payload()
    error, upstream_status = payload["error"], payload.get("status")
    if upstream_status in _KEPT:
        status = upstream_status
    elif error["code"] in _TIMEOUTS or upstream_status == 504:
        status = 504
    elif upstream_status is None and error["type"] == "invalid_request_error":
        status = 400  # reported inside a stream
    else:
        status = 502
    if status == 429:
        final = {**(headers or {}), "Retry-After": str(max(1, math.ceil(payload.get("retry_after") or 0)))}
    return ApiError(
        status, error["message"], type_=error["type"], param=error["param"], code=error["code"], headers=final
    )


@asynccontextmanager
async def within_patience() -> AsyncIterator[None]:
    """Bound what a request waits for Redis inside this context.

    Raises:
        ApiError: 503, when Redis is unreachable, too slow, or refuses to serve.
    """
    try:
        async with timeout(REDIS_PATIENCE):
            yield
    except (TimeoutError, *FAILURES) as error:
        logger.warning("answering 503: Redis failed: %r", error)
        raise unavailable() from error


def install_handlers(app: FastAPI) -> None:
    """Make every error of `app`, the framework's own included, answer in the envelope."""
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_unexpected)


async def _answer_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message, code = str(error.detail), None
    if error.status_code == 404:
        message, code = f"There is nothing at {request.url.path[:200]}.", "not_found"
    elif error.status_code == 405:
        message, code = f"{request.method} is not allowed at {request.url.path[:200]}.", "method_not_allowed"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def _answer_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return ApiError(400, first["msg"], param=param, code="invalid_value").response()


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The client left while it was sending: nobody reads this."""
    return Response(status_code=400)


async def _answer_unexpected(_request: Request, _error: Exception) -> Response:
    """500; the server's own middleware logs the traceback, the client sees none of it."""
    return ApiError(500, "Something went wrong here; it has been logged.", type_="server_error").response()
