"""The endpoint `/v1/chat/completions`: from a request's bytes to its response, faults included."""

import asyncio
import hashlib
from collections.abc import Coroutine

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from simulator.chunks import FrameWriter, Head, write_completion
from simulator.errors import ApiError
from simulator.journal import Journal, Record
from simulator.question import Question, parse_question
from simulator.reply import Reply, write_reply
from simulator.response import Response
from simulator.script import (
    AnyFault,
    CutFault,
    DoneWithoutFinishFault,
    ErrorFault,
    GarbageFault,
    Script,
    SlowHeadersFault,
    StallFault,
    StatusFault,
    TruncateFault,
    parse_script,
)
from simulator.timeline import duration, plan

_NOTED_HEADERS = ("accept", "content-type", "idempotency-key", "user-agent", "x-stainless-retry-count")


class CompletionsEndpoint:
    """The ASGI application of the endpoint; the same request always gets the same bytes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        if body is None:
            return
        headers = Headers(scope=scope)
        header = headers.get("x-simulator", "").encode("latin-1")
        digest = hashlib.blake2b(body + b"\0" + header, digest_size=20).hexdigest()
        record = self._journal.open(digest, noted_headers(headers))
        response = Response(send, record)
        try:
            require_key(headers.get("authorization", ""))
            question = parse_question(body)
            script = parse_script(question.simulator, header)
        except ApiError as error:
            await response.refuse(error, f"rejected:{error.status}")
            return
        record.key, record.model, record.body = script.key or digest, question.model, msgspec.Raw(body)
        record.retry = self._journal.count(record.key)
        head = Head(digest, question.model, script.extra)
        exchange = _respond(response, head, question, script, script.faults(record.retry))
        await while_connected(exchange, receive, record)


def require_key(authorization: str) -> None:
    """Raise ApiError 401, quoting part of the key as OpenAI does, for a key beginning with `invalid`."""
    key = authorization.removeprefix("Bearer ").strip()
    if key.startswith("invalid"):
        masked = f"{key[:12]}{'*' * 8}{key[-4:]}"
        raise ApiError(401, f"Incorrect API key provided: {masked}.", code="invalid_api_key")


async def _respond(response: Response, head: Head, question: Question, script: Script, faults: list[AnyFault]) -> None:
    for fault in faults:
        match fault:
            case SlowHeadersFault():
                response.note(fault.kind)
                await asyncio.sleep(fault.seconds)
            case StatusFault():
                response.note(fault.kind)
                await response.refuse(fault.error(), f"fault:{fault.kind}")
                return
    reply = write_reply(question, script)
    with_logprobs = bool(question.logprobs)
    if question.stream:
        writer = FrameWriter(head, with_usage=question.include_usage, with_logprobs=with_logprobs)
        await response.stream(plan(reply, script, writer, faults), script.fragment)
    else:
        await asyncio.sleep(duration(reply, script))
        await _complete(response, head, reply, faults, with_logprobs=with_logprobs)


async def _complete(
    response: Response, head: Head, reply: Reply, faults: list[AnyFault], *, with_logprobs: bool
) -> None:
    """Answer in one piece; the first fault that ends the answer decides, stalls come before it."""
    unfinished = write_completion(head, reply, with_logprobs=with_logprobs, is_finished=False)
    for fault in faults:
        if isinstance(fault, SlowHeadersFault):
            continue
        response.note(fault.kind)
        outcome = f"fault:{fault.kind}"
        match fault:
            case StallFault():
                await asyncio.sleep(fault.seconds)
                continue
            case ErrorFault():
                await response.refuse(fault.error(), outcome)
            case CutFault():
                await response.break_off(unfinished, outcome)
            case GarbageFault():
                await response.answer(200, fault.text.encode(), outcome)
            case TruncateFault() | DoneWithoutFinishFault():
                await response.answer(200, unfinished, outcome)
        return
    await response.answer(200, write_completion(head, reply, with_logprobs=with_logprobs), "finished")


async def read_body(receive: Receive) -> bytes | None:
    """The whole body, or None if the client left before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def noted_headers(headers: Headers) -> dict[str, str | bool]:
    """What a record says of the headers."""
    noted: dict[str, str | bool] = {name: headers[name] for name in _NOTED_HEADERS if name in headers}
    return noted | {"authorization": "authorization" in headers}


async def while_connected(exchange: Coroutine[None, None, None], receive: Receive, record: Record) -> None:
    """Run `exchange`, but no longer than the client stays and the server runs; note in the record what ended it."""
    work = asyncio.create_task(exchange)
    watch = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            record.close("client_closed")
    except asyncio.CancelledError:
        # Only the server cancels, when it shuts down, and would log a traceback for every open stream.
        record.close("shutdown")
    finally:
        watch.cancel()
        work.cancel()
    await asyncio.wait((work,))
    if not work.cancelled():
        work.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
