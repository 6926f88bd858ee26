"""The endpoints below `/v1/responses`: create a response, stream it again, poll, cancel and delete it.

A background response is generated whether anybody listens or not; who creates or follows it gets its events from a
list. So a script's `error` befalls the response, all other faults the connection: `after` counts the deltas that this
connection sent, and every request that streams counts as one of the key. The list is kept for some minutes after the
end, and the oldest are forgotten when there are too many.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from simulator.chunks import Head
from simulator.completions import noted_headers, read_body, require_key, while_connected
from simulator.errors import ApiError
from simulator.generations import Draft, Json, Moment
from simulator.journal import Journal
from simulator.question import Message, Question, unknown_model
from simulator.reply import write_reply
from simulator.response import Response
from simulator.script import (
    AnyFault,
    CutFault,
    DoneWithoutFinishFault,
    ErrorFault,
    GarbageFault,
    MidwayFault,
    Script,
    SlowHeadersFault,
    StallFault,
    StatusFault,
    TruncateFault,
    invalid,
    parse_script,
)
from simulator.timeline import due_at

_KEPT = 600.0
"""Seconds that a response can be read after its end."""

_MOST = 4_000
_MOST_BYTES = 268_435_456
_BATCH = 65_536
_TURN = 64
_PING = b": ping\n\n"
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "previous_response_id",
    "reasoning",
    "temperature",
    "text",
    "top_p",
    "truncation",
    "user",
)

_encode = msgspec.json.Encoder().encode


class Order(Struct, frozen=True):
    """The body of a POST as far as it matters here; all else is accepted and ignored, or echoed."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Json]
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    include: list[str] | None = None
    reasoning: Json | None = None
    tools: list[Json] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    simulator: Any = None

    @property
    def question(self) -> Question:
        """The same as a question of Chat Completions."""
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        return Question(
            model=self.model,
            messages=tuple(filter(None, map(_message, items))) or (Message("user"),),
            max_completion_tokens=self.max_output_tokens,
            logprobs="message.output_text.logprobs" in (self.include or ()),
        )


class Run:
    """One response while it is generated, and afterwards."""

    def __init__(self, response_id: str, draft: Draft, script: Script, key: str, order: Order) -> None:
        self.id = response_id
        self.draft = draft
        self.script = script
        self.key = key
        self.order = order
        self.idempotency_key: str | None = None
        self.frames: list[bytes] = []
        self.deltas: list[int] = []
        self.size = 0
        self.started = time.time() * 1000
        self.cancelled_at: float | None = None
        self.ended: float | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    def start(self, error: ErrorFault | None) -> None:
        """Generate at the script's pace, from now on."""
        self._task = asyncio.create_task(self._generate(error))

    async def news(self) -> None:
        """Wait until there is more, or it has ended."""
        await self._news.wait()

    async def end(self) -> None:
        """Wait until it has ended."""
        while not self.is_over:
            await self.news()

    def cancel(self) -> None:
        """Generate no more; without effect if it has ended."""
        if not self.is_over:
            if self._task is not None:
                self._task.cancel()
            self.draft.cancel()
            self.cancelled_at = time.time() * 1000
            self._finish()

    async def _generate(self, error: ErrorFault | None) -> None:
        started, position = time.monotonic(), 0
        if self.script.raw_chunks is not None:
            moments: Iterable[Moment] = (Moment(chunk) for chunk in self.script.raw_chunks)
        else:
            moments = self.draft.moments(error)
        for moment in moments:
            if moment.deltas:
                early = due_at(self.script, position) - (time.monotonic() - started)
                position += 1
                if early > 0 or position % _TURN == 0:
                    self._tell()
                    await asyncio.sleep(max(0.0, early))
            frame = b"event: %b\ndata: %b\n\n" % (str(moment.event.get("type")).encode(), _encode(moment.event))
            if self.script.crlf:
                frame = frame.replace(b"\n", b"\r\n")
            self.frames.append(frame)
            self.deltas.append(moment.deltas)
            self.size += len(frame)
        self._finish()

    def _finish(self) -> None:
        self.ended = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        if not self.is_over:
            self._news = asyncio.Event()

    def note(self) -> Json:
        """What a test can know of it."""
        return {
            "id": self.id,
            "key": self.key,
            "model": self.order.model,
            "status": self.draft.response["status"],
            "is_background": bool(self.order.background),
            "idempotency_key": self.idempotency_key,
            "deltas": sum(self.deltas),
            "started": self.started,
            "cancelled_at": self.cancelled_at,
        }


class Runs:
    """The bounded memory of responses."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._by_key: dict[str, tuple[str, Run]] = {}
        self._numbers = count()

    def new_id(self, digest: str) -> str:
        """An id that no response had before."""
        return f"resp_{digest[:24]}{next(self._numbers):08x}"

    def add(self, run: Run, digest: str, idempotency_key: str | None) -> None:
        """Remember a response; `idempotency_key` gives it again to the same request."""
        self._forget_old()
        self._runs[run.id] = run
        if idempotency_key:
            run.idempotency_key = idempotency_key
            self._by_key[idempotency_key] = digest, run

    def find(self, response_id: str) -> Run:
        """The response of that id; ApiError 404 if there is none."""
        run = self._runs.get(response_id)
        if run is None:
            raise ApiError(404, f"Response with id '{response_id}' not found.")
        return run

    def repeated(self, idempotency_key: str | None, digest: str) -> Run | None:
        """The response that this request has made already; ApiError 400 if another request has used its key."""
        found = self._by_key.get(idempotency_key or "")
        if found is None:
            return None
        if found[0] != digest:
            raise ApiError(400, "The idempotency key was used with another body.", code="idempotency_key_reused")
        return found[1]

    def delete(self, run: Run) -> None:
        """Stop and forget a response."""
        run.cancel()
        self._runs.pop(run.id, None)
        if run.idempotency_key:
            self._by_key.pop(run.idempotency_key, None)

    def clear(self) -> None:
        """Stop and forget all."""
        for run in list(self._runs.values()):
            self.delete(run)

    def encode(self, key: str | None) -> bytes:
        """Notes of all responses, or of those of one key, as a JSON list, oldest first."""
        return _encode([run.note() for run in self._runs.values() if key in (None, run.key)])

    def _forget_old(self) -> None:
        now, size = time.monotonic(), sum(run.size for run in self._runs.values())
        for run in list(self._runs.values()):
            if run.ended is None:
                continue
            if len(self._runs) < _MOST and size < _MOST_BYTES and now - run.ended < _KEPT:
                break
            size -= run.size
            self.delete(run)


@dataclass(frozen=True, slots=True)
class ResponsesEndpoint:
    """The ASGI application of `POST /v1/responses`."""

    journal: Journal
    runs: Runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        if body is None:
            return
        headers = Headers(scope=scope)
        header = headers.get("x-simulator", "").encode("latin-1")
        digest = hashlib.blake2b(body + b"\0" + header, digest_size=20).hexdigest()
        record = self.journal.open(digest, noted_headers(headers), "response.create")
        response = Response(send, record)
        try:
            require_key(headers.get("authorization", ""))
            order = parse_order(body)
            script = parse_script(order.simulator, header)
            repeated = self.runs.repeated(headers.get("idempotency-key"), digest)
        except ApiError as error:
            await response.refuse(error, f"rejected:{error.status}")
            return
        record.key, record.model, record.body = script.key or digest, order.model, msgspec.Raw(body)
        record.retry = self.journal.count(record.key)
        faults = script.faults(record.retry)
        if await _refused(response, faults):
            return
        run = repeated or self._begin(digest, order, script, record.key, body, faults)
        record.response_id = run.id
        if repeated is None and order.store is not False:
            self.runs.add(run, digest, headers.get("idempotency-key"))
        try:
            await while_connected(_answer(response, run, faults), receive, record)
        finally:
            if not order.background:
                run.cancel()

    def _begin(self, digest: str, order: Order, script: Script, key: str, body: bytes, faults: list[AnyFault]) -> Run:
        response_id = self.runs.new_id(digest)
        (choice,) = (reply := write_reply(order.question, script)).choices
        head = Head(digest, order.model, {})
        draft = Draft(
            _blank(response_id, head, order, body) | script.extra,
            choice,
            input_tokens=reply.prompt_tokens,
            call_ids=[head.call_id(0, position) for position in range(len(choice.tool_calls))],
            has_summary=bool((order.reasoning or {}).get("summary")),
            has_logprobs=bool(order.question.logprobs),
        )
        run = Run(response_id, draft, script, key, order)
        run.start(next((fault for fault in faults if isinstance(fault, ErrorFault)), None))
        return run


@dataclass(frozen=True, slots=True)
class ResponseEndpoint:
    """The ASGI application of `/v1/responses/{id}` and of what is below it."""

    journal: Journal
    runs: Runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        wants_stream = request.query_params.get("stream") == "true"
        name = {"POST": "cancel", "DELETE": "delete"}.get(request.method, "stream" if wants_stream else "retrieve")
        response_id = str(request.path_params["id"])
        record = self.journal.open(response_id, noted_headers(request.headers), f"response.{name}")
        record.response_id = response_id
        response = Response(send, record)
        try:
            require_key(request.headers.get("authorization", ""))
            run = self.runs.find(response_id)
            record.key, record.model = run.key, run.order.model
            if name == "stream":
                record.starting_after = _starting_after(request)
                _check_streamable(run)
        except ApiError as error:
            await response.refuse(error, f"rejected:{error.status}")
            return
        if name == "stream":
            record.retry = self.journal.count(run.key)
            faults = run.script.faults(record.retry)
            if not await _refused(response, faults):
                after = -1 if record.starting_after is None else record.starting_after
                await while_connected(_stream(response, run, faults, after + 1), receive, record)
            return
        if name == "cancel":
            run.cancel()
        elif name == "delete":
            self.runs.delete(run)
        body = {"id": run.id, "object": "response", "deleted": True} if name == "delete" else run.draft.response
        await response.answer(200, _encode(body), "finished")


def parse_order(body: bytes) -> Order:
    """Read a body; ApiError 400 if it is no JSON or a parameter is missing or wrong, 404 for a missing- model."""
    try:
        order = msgspec.json.decode(body, type=Order)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request: {error}") from None
    if order.model.startswith("missing-"):
        raise unknown_model(order.model)
    if order.background and order.store is False:
        raise ApiError(400, "Background mode requires store to be true.", param="store")
    return order


def _message(item: Json) -> Message | None:
    """An input item as a message; None for one that says nothing here."""
    if item.get("type") == "function_call_output":
        return msgspec.convert({"role": "tool", "content": item.get("output")}, Message)
    if not isinstance(item.get("role"), str):
        return None
    try:
        return msgspec.convert(item, Message)
    except msgspec.ValidationError as error:
        raise invalid(error, within="input") from None


def _blank(response_id: str, head: Head, order: Order, body: bytes) -> Json:
    """The response before anything is known of its output."""
    sent = msgspec.json.decode(body)
    return {
        "id": response_id,
        "object": "response",
        "created_at": head.fields("")["created"],
        "model": order.model,
        "background": bool(order.background),
        "store": order.store is not False,
        "parallel_tool_calls": order.parallel_tool_calls is not False,
        "tool_choice": order.tool_choice or "auto",
        "tools": order.tools or [],
        "usage": None,
    } | {name: sent[name] for name in _ECHOED if name in sent}


def _starting_after(request: Request) -> int | None:
    value = request.query_params.get("starting_after")
    try:
        return int(value) if value is not None else None
    except ValueError:
        raise ApiError(400, "starting_after must be an integer.", param="starting_after") from None


def _check_streamable(run: Run) -> None:
    limit = run.script.streamable
    if not run.order.background or not run.order.stream:
        raise ApiError(400, "This response cannot be streamed: it was not created with background and stream.")
    if limit is not None and time.time() * 1000 - run.started > limit * 1000:
        message = f"This response can no longer be streamed because it is more than {limit:g} seconds old."
        raise ApiError(400, message)


async def _refused(response: Response, faults: list[AnyFault]) -> bool:
    """Whether a fault is the answer."""
    for fault in faults:
        if isinstance(fault, StatusFault):
            response.note(fault.kind)
            await response.refuse(fault.error(), f"fault:{fault.kind}")
            return True
    return False


async def _answer(response: Response, run: Run, faults: list[AnyFault]) -> None:
    if run.order.stream:
        await _stream(response, run, faults, 0)
        return
    await _be_slow(response, faults)
    if not run.order.background:
        await run.end()
    body = _encode(run.draft.response)
    for fault in faults:
        match fault:
            case StallFault():
                response.note(fault.kind)
                await asyncio.sleep(fault.seconds)
            case CutFault():
                response.note(fault.kind)
                await response.break_off(body, f"fault:{fault.kind}")
                return
            case GarbageFault():
                response.note(fault.kind)
                body = fault.text.encode()
    await response.answer(200, body, "finished")


async def _be_slow(response: Response, faults: list[AnyFault]) -> None:
    for fault in faults:
        if isinstance(fault, SlowHeadersFault):
            response.note(fault.kind)
            await asyncio.sleep(fault.seconds)


async def _stream(response: Response, run: Run, faults: list[AnyFault], position: int) -> None:
    """Send the events from `position` on, those that are there and those to come."""
    await _be_slow(response, faults)
    script = run.script
    waiting = sorted(
        (fault for fault in faults if isinstance(fault, MidwayFault) and not isinstance(fault, ErrorFault)),
        key=lambda fault: fault.after,
    )
    await response.begin_stream()
    batch, deltas, sent = bytearray(_PING if script.comments else b""), 0, 0
    while True:
        while position < len(run.frames):
            frame, weight = run.frames[position], run.deltas[position]
            is_last = run.is_over and position == len(run.frames) - 1
            while waiting and ((weight and waiting[0].after == sent) or is_last):
                await response.write(batch, deltas, script.fragment)
                batch, deltas = bytearray(), 0
                if await _strike(response, waiting.pop(0), frame):
                    return
            if script.comments and weight:
                batch += _PING
            batch += frame
            deltas += weight
            sent += weight
            position += 1
            if len(batch) >= _BATCH:
                break
        await response.write(batch, deltas, script.fragment)
        batch, deltas = bytearray(), 0
        if position < len(run.frames):
            continue
        if run.is_over:
            break
        await run.news()
    await response.end_stream("finished")


async def _strike(response: Response, fault: MidwayFault, frame: bytes) -> bool:
    """Let a fault take effect where `frame` would have been next; True if it ends the stream."""
    response.note(fault.kind)
    outcome = f"fault:{fault.kind}"
    match fault:
        case StallFault():
            await asyncio.sleep(fault.seconds)
            return False
        case GarbageFault():
            await response.write(fault.text.encode(), 0, None)
            return False
        case CutFault():
            await response.write(frame[: len(frame) // 2], 0, None)
            response.abandon(outcome)
        case DoneWithoutFinishFault():
            await response.write(b"data: [DONE]\n\n", 0, None)
            await response.end_stream(outcome)
        case TruncateFault():
            await response.end_stream(outcome)
    return True
