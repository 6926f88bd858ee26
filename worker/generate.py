"""The job: claim a chat, stream the upstream's answer into its log, and end it, whatever happens on the way."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

from shared import events, json_text
from shared.chat import new_token
from shared.connect import FAILURES
from shared.cursor import START
from shared.endpoint import redact, secrets
from shared.events import ANSWER_ID, ChunkDecoder, ChunkEncoder, Json, Kind, Transcript, choices_of, index_of
from shared.log import ChatLog, Claimed, Fenced, Gone, Refused, Sealed
from shared.queue import JobQueue
from shared.settings import Settings
from worker.log_writer import AttemptLog, LogLost, LogWriter
from worker.template import TextTemplate
from worker.upstream import Generation, Upstream, UpstreamError, backoff

logger = logging.getLogger(__name__)

_HANDOVER_TIMEOUT = 2.0
_PAGE = 1000
_REDIS_PAUSE = 0.2
_STORED_PER_ANSWER = 16
"""Bytes that a log may take per byte of the answer allowed: an upstream may wrap each letter in a long chunk."""

_STORED_AT_LEAST = 1_048_576

_UNEXPECTED = events.error("Something went wrong here; it has been logged.", "server_error", None)
_WORKER_LOST = UpstreamError(
    "The worker was lost while it generated.", code="worker_lost", type_="server_error", is_final=True
)

Reply = TypeVar("Reply")


@dataclass(slots=True)
class Answer:
    """What the upstream's chunks have said so far about the end of the answer, which has `wanted` choices."""

    wanted: int = 1
    encoder: ChunkEncoder = field(default_factory=ChunkEncoder)
    template: TextTemplate = field(default_factory=TextTemplate)
    finished: dict[int, str] = field(default_factory=dict)
    usage: Json | None = None
    size: int = 0

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, that is, its first choice; None as long as one of the choices has not."""
        return self.finished[min(self.finished)] if len(self.finished) >= self.wanted else None

    def take(self, raw: bytes) -> bytes:
        """Read one chunk; give the value of its log entry.

        Raises:
            UpstreamError: it is no chunk, or it reports an error.
        """
        text = self.template.text_of(raw)
        if text is not None:
            self.size += len(text)
            return Kind.TEXT_CHUNK.value + text
        chunk = _parse_chunk(raw)
        is_plain = self.note(chunk)
        value = self.encoder.encode(chunk)
        if is_plain and value[:1] == Kind.TEXT_CHUNK.value:
            self.template.learn(raw, chunk)
        return value

    def note(self, chunk: Json) -> bool:
        """Note what a chunk says of the end; False if it says anything."""
        is_plain = True
        for choice in choices_of(chunk):
            if isinstance(choice.get("finish_reason"), str):
                self.finished[index_of(choice)] = choice["finish_reason"]
                is_plain = False
            self.size += _text_size(choice.get("delta"))
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
            is_plain = False
        return is_plain


class _Recorder:
    """The upstream's sink: appends each chunk to the attempt's log, within the limits on the answer's size (bytes)."""

    def __init__(self, log: AttemptLog, answer: Answer, limit: int, on_begun: Callable[[str], Awaitable[None]]) -> None:
        self._log = log
        self._on_begun = on_begun
        self._answer = answer
        self._limit = limit
        self._stored_limit = max(_STORED_PER_ANSWER * limit, _STORED_AT_LEAST)

    async def begin(self, answer_id: str) -> None:
        """See `Sink.begin`.

        Raises:
            LogLost: see there.
        """
        await self._on_begun(answer_id)

    def take(self, chunks: Sequence[bytes]) -> bool:
        """See `Sink.take`.

        Raises:
            UpstreamError: a chunk that is none, or one too many.
            LogLost: see there.
        """
        log, answer = self._log, self._answer
        for raw in chunks:
            value = answer.take(raw)
            if answer.size > self._limit:
                message = f"The answer is longer than {self._limit} bytes (PIROPIRO_MAX_OUTPUT)."
                raise UpstreamError(message, code="output_too_long", is_final=True)
            if log.size + len(value) > self._stored_limit:
                size = f"larger than {self._stored_limit} bytes in all"
                message = f"The upstream's chunks are {size} (PIROPIRO_MAX_OUTPUT)."
                raise UpstreamError(message, code="output_too_long", is_final=True)
            log.append(value)
        return not log.is_full

    async def room(self) -> None:
        """See `Sink.room`."""
        await self._log.room()


class Generator:
    """Generates chats, each in the task that calls `run`. Everything it works with is given to it."""

    def __init__(
        self,
        *,
        log: ChatLog,
        queue: JobQueue,
        writer: LogWriter,
        upstream: Upstream,
        settings: Settings,
        worker_id: str,
    ) -> None:
        self._log = log
        self._queue = queue
        self._writer = writer
        self._upstream = upstream
        self._settings = settings
        self._worker_id = worker_id
        self._running: dict[str, AttemptLog] = {}
        self._held: Counter[str] = Counter()

    @property
    def running(self) -> dict[str, AttemptLog]:
        """The attempts of this worker, by chat id."""
        return self._running

    @property
    def held(self) -> AbstractSet[str]:
        """The ids of the chats that this worker takes care of, also between two attempts."""
        return self._held.keys()

    async def run(self, chat_id: str) -> None:
        """Generate the chat: return when it has ended, or is somebody else's.

        Cancellation hands the chat over to another worker.
        """
        self._held[chat_id] += 1
        try:
            await self._run(chat_id)
        finally:
            self._held[chat_id] -= 1
            if not self._held[chat_id]:
                del self._held[chat_id]

    async def _run(self, chat_id: str) -> None:
        turn = _Turn(chat_id, asyncio.get_running_loop().time() + self._settings.job_timeout)
        try:
            await self._take_turns(turn)
        except asyncio.CancelledError:
            await self._hand_over(turn)
            raise
        except Exception:
            logger.exception("chat %s failed unexpectedly", chat_id)
            await self._seal(turn, _UNEXPECTED)

    async def _take_turns(self, turn: "_Turn") -> None:
        """Claim the chat and attempt it, again and again until it is settled.

        Raises:
            asyncio.CancelledError: the worker is to stop; the chat may still be the turn's.
        """
        claim = await self._claim(turn, reason="worker_lost")
        failure = _WORKER_LOST
        if isinstance(claim, Claimed):
            turn.deadline -= claim.elapsed_ms / 1000
        while isinstance(claim, Claimed):
            failed = await self._attempt(turn, claim)
            if failed is None:
                return
            failure, pause = failed, backoff(claim.failures)
            if asyncio.get_running_loop().time() + pause > turn.deadline:
                await self._seal(turn, _timed_out(self._settings.job_timeout))
                return
            await asyncio.sleep(pause)
            claim = await self._claim(turn, reason=failure.reason, failed=True)
        if isinstance(claim, Refused):
            await self._seal(turn, self._encode_error(failure))

    async def _claim(
        self, turn: "_Turn", *, reason: str, failed: bool = False
    ) -> Claimed | Refused | Sealed | Fenced | Gone:
        turn.begin_claim(reason, failed=failed)
        return await _insist(
            lambda: self._log.claim(turn.chat_id, token=turn.token, worker_id=self._worker_id, **turn.claim_options)
        )

    async def _reclaim(self, turn: "_Turn", claim: Claimed) -> bool:
        if not await self._log.reclaim(
            turn.chat_id, claim, token=turn.token, worker_id=self._worker_id, **turn.claim_options
        ):
            return False
        # What was forgotten with the claim: the answer that it had, or that began later.
        return not turn.answer or await self._log.note_answer(turn.chat_id, turn.answer, token=turn.token)

    async def _seal(self, turn: "_Turn", terminal: bytes) -> None:
        await _insist(lambda: self._log.seal(turn.chat_id, terminal, only_token=turn.token))

    async def _attempt(self, turn: "_Turn", claim: Claimed) -> UpstreamError | None:
        """Run one attempt; the failure it ended with if there is to be another, None if the chat is settled.

        Losing the log cancels the task, wherever it waits, so that the upstream's connection closes at once.
        """
        task = asyncio.current_task()
        assert task is not None
        log = self._writer.open(
            turn.chat_id,
            turn.token,
            claim.attempt,
            on_lost=task.cancel,
            reclaim=lambda: self._reclaim(turn, claim),
        )
        self._running[turn.chat_id] = log
        turn.answer = claim.answer
        try:
            return await self._generate(log, claim, turn)
        except LogLost:
            return None
        except asyncio.CancelledError:
            if not log.is_lost:
                await _flush_briefly(log)
                raise
            task.uncancel()
            return None
        finally:
            log.close()
            if self._running.get(turn.chat_id) is log:  # else it is a later turn's, of the same chat
                del self._running[turn.chat_id]

    async def _generate(self, log: AttemptLog, claim: Claimed, turn: "_Turn") -> UpstreamError | None:
        """Stream the answer into the log and seal it, unless it failed in a way that allows another attempt.

        Raises:
            LogLost: the chat is settled or somebody else's.
        """
        try:
            async with asyncio.timeout_at(turn.deadline) as limit:
                await self._stream(log, claim, turn)
        except UpstreamError as failure:
            if failure.is_lost:
                turn.answer = ""
                await self._insist_own(lambda: self._log.lose_answer(turn.chat_id, token=turn.token))
            if not failure.is_final and claim.failures + 1 < self._settings.max_attempts:
                await log.flushed()
                return failure
            await log.seal(self._encode_error(failure))
        except TimeoutError:
            if not limit.expired():
                raise
            await log.seal(_timed_out(self._settings.job_timeout))
        return None

    async def _stream(self, log: AttemptLog, claim: Claimed, turn: "_Turn") -> None:
        async def begin(answer_id: str) -> None:
            turn.answer = answer_id
            await self._insist_own(lambda: self._log.note_answer(turn.chat_id, answer_id, token=turn.token))

        request, chunks, key = claim.request, list[Json](), f"{log.chat_id}-{claim.lost}"
        if claim.answer:
            chunks = await self._chunks_of(claim.answer, log.chat_id)
        elif claim.continues:
            request, key = await self._continuation(log.chat_id, request), f"{key}-{claim.attempt}"
        answer = Answer(_wanted(request))
        for chunk in chunks:
            answer.note(chunk)
        recorder = _Recorder(log, answer, self._settings.max_output, begin)
        generation = Generation(key, claim.answer or None, chunks)
        try:
            await self._upstream.stream(request, recorder, generation)
        except UpstreamError as error:
            if answer.finish_reason is None or error.is_final:
                raise  # else the answer was complete, and only its trimmings are missing
        if answer.finish_reason is None:
            raise UpstreamError(
                "The upstream's answer ended without a finish_reason.", code="upstream_truncated", is_final=False
            )
        await log.seal(events.done(answer.finish_reason, answer.usage))

    async def _insist_own(self, call: Callable[[], Awaitable[bool]]) -> None:
        """Do to the record what only the chat's owner may.

        Raises:
            LogLost: it is another's.
        """
        if not await _insist(call):
            raise LogLost

    async def _chunks_of(self, answer: str, chat_id: str) -> list[Json]:
        """What is stored of the upstream's answer of that id."""
        decoder = ChunkDecoder()
        chunks = [decoder.decode(entry) for entry in await self._entries(chat_id) if entry.is_chunk]
        return [chunk for chunk in chunks if chunk.get(ANSWER_ID) == answer]

    async def _entries(self, chat_id: str) -> list[events.Entry]:
        entries, after = list[events.Entry](), START
        while page := await _insist(lambda: self._log.read(chat_id, after, _PAGE)):  # noqa: B023  # called at once
            entries += page
            after = page[-1].id
        return entries

    async def _continuation(self, chat_id: str, request: bytes) -> bytes:
        """The request, with what earlier attempts left as a final assistant message to continue.

        Raises:
            UpstreamError: they left more than text, which no message can hold unfinished.
        """
        entries = await self._entries(chat_id)
        for entry in entries:
            if entry.is_chunk and (entry.delta() or {}).get("tool_calls"):
                raise UpstreamError("A partial tool call cannot be continued.", code="cannot_continue", is_final=True)
        if _wanted(request) > 1:
            raise UpstreamError("Partial answers to n > 1 cannot be continued.", code="cannot_continue", is_final=True)
        body: dict[str, Any] = json_text.loads(request)
        text = Transcript.of(entries).text
        if not text:
            return request
        partial = {"role": "assistant", "content": text}
        return json_text.dumps({**body, "messages": [*body["messages"], partial], **self._settings.continue_params})

    def _encode_error(self, error: UpstreamError) -> bytes:
        known = secrets(self._settings)
        message, type_, code, param = (
            redact(text, *known) if text is not None else None
            for text in (error.message, error.type, error.code, error.param)
        )
        return events.error(message or "", type_ or "", code, param, status=error.status, retry_after=error.retry_after)

    async def _hand_over(self, turn: "_Turn") -> None:
        """Enqueue the chat's next attempt; if Redis does not answer, the lease will tell."""
        try:
            async with asyncio.timeout(_HANDOVER_TIMEOUT):
                for token in turn.tokens:
                    await self._queue.hand_over(turn.chat_id, token, failed=False)
        except (TimeoutError, *FAILURES) as error:
            logger.warning("chat %s not handed over: %r", turn.chat_id, error)


class ClaimOptions(TypedDict):
    """What a claim says beside who claims."""

    reason: str
    previous: str | None
    failed: bool


@dataclass(slots=True)
class _Turn:
    """A worker's time with a chat, until `deadline`: one or more attempts, each with a token of its own."""

    chat_id: str
    deadline: float
    answer: str = ""
    """What the upstream calls the answer that the attempt is about; empty if it cannot go on with one."""

    tokens: list[str] = field(default_factory=list)
    """The latest first. While a claim is under way, either of two may be the record's."""
    claim_options: ClaimOptions = field(default_factory=lambda: ClaimOptions(reason="", previous=None, failed=False))

    @property
    def token(self) -> str:
        return self.tokens[0]

    def begin_claim(self, reason: str, *, failed: bool) -> None:
        """Make a fresh token the turn's, to replace the one it has had, if any."""
        self.tokens = [new_token(), *self.tokens[:1]]
        previous = self.tokens[1] if len(self.tokens) > 1 else None
        self.claim_options = ClaimOptions(reason=reason, previous=previous, failed=failed)


async def _flush_briefly(log: AttemptLog) -> None:
    with suppress(LogLost, TimeoutError):
        async with asyncio.timeout(_HANDOVER_TIMEOUT):
            await log.flushed()


def _wanted(request: bytes) -> int:
    """How many choices the request asks for."""
    n = json_text.loads(request).get("n") if b'"n"' in request else None
    return n if isinstance(n, int) else 1


def _text_size(value: object) -> int:
    """The bytes of all text in a delta: content, reasoning, arguments of tools, whatever it is called."""
    match value:
        case str():
            return len(value.encode("utf-8", "replace"))
        case dict():
            return sum(map(_text_size, value.values()))
        case list():
            return sum(map(_text_size, value))
        case _:
            return 0


async def _insist(call: Callable[[], Awaitable[Reply]]) -> Reply:
    """Repeat an idempotent call until Redis answers it."""
    while True:
        try:
            return await call()
        except FAILURES as error:
            logger.warning("Redis failed, trying again: %s", error)
            await asyncio.sleep(_REDIS_PAUSE)


def _parse_chunk(raw: bytes) -> Json:
    try:
        chunk = json_text.loads(raw)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise UpstreamError("The upstream sent a malformed chunk.", code="upstream_garbage", is_final=False)
    if chunk.get("error") and not chunk.get("choices"):
        raise _reported(chunk["error"])
    return chunk


def _reported(body: Any) -> UpstreamError:
    """An error that the upstream reports inside its stream."""
    if not isinstance(body, dict):
        body = {"message": body if isinstance(body, str) else None}
    return UpstreamError.of(
        body, "The upstream reported an error.", is_final=body.get("type") == "invalid_request_error"
    )


def _timed_out(limit: float) -> bytes:
    return events.error(f"The chat ran longer than {limit:g} s (PIROPIRO_JOB_TIMEOUT).", "server_error", "job_timeout")
