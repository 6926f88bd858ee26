"""The upstream that speaks the Responses API with background mode: a port's adapter around the same client.

A response goes on without us. So an attempt that finds the id of one asks for the events after the last that is stored,
and nothing is generated twice.

Until the id is stored, a lost worker would mean a second response. A POST therefore carries an Idempotency-Key, the
same for every attempt at the same answer; that helps with servers that honour it.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from shared import json_text
from shared.settings import Settings
from worker.responses_events import Failed, Malformed, Translator, response_id_of
from worker.responses_request import LOGPROBS, Untranslatable, translate_request
from worker.upstream import Generation, Sink, UpstreamClient, UpstreamError, UpstreamRequest, answer_lost

logger = logging.getLogger(__name__)

_NO_STREAM = (400, 410)
"""What a server answers that has a response, but not its events any more: OpenAI says 400 when it is 5 minutes old."""

_NOT_FOUND = 404
_POLL = 1.0

_PATIENCE = 1.5
"""Seconds that a cancelled attempt waits for the id of a response that it has asked for."""

_FAREWELL = 5.0
"""Seconds that it may take to cancel a response."""

_GOODBYE = 2.0
"""Seconds that a stopping worker gives the cancellations under way."""

_MOST_FAREWELLS = 100


class ResponsesUpstream:
    """A server that speaks the Responses API. One per process, made inside the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._client = UpstreamClient(settings)
        self._farewells = set[asyncio.Task[None]]()

    async def close(self) -> None:
        """Close the connection pool, once what is being cancelled is, or after a moment."""
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=_GOODBYE)
        for task in self._farewells:
            task.cancel()
        await self._client.close()

    async def stream(self, request: bytes, sink: Sink, generation: Generation) -> None:
        """See `Upstream.stream`."""
        chat: dict[str, Any] = json_text.loads(request)
        if generation.id is None:
            await self._begin(_creation(chat, generation.key), sink)
            return
        translator = Translator.after(generation.id, generation.chunks)
        if translator.is_over:
            return
        try:
            await self._pass_on(_resumption(chat, translator), _Translation(sink, translator))
        except UpstreamError as error:
            if error.status in _NO_STREAM:
                await self._wait_for_rest(translator, sink)
            elif error.status == _NOT_FOUND:
                raise answer_lost() from None
            else:
                raise

    async def _ask_after(self, response_id: str, translation: "_Translation") -> None:
        """Find out whether the response whose stream just ended is at its end as well: a cancelled one has no event.

        Raises:
            Failed: it is.
            UpstreamError: it does not exist any more.
        """
        try:
            found = await self._client.fetch(UpstreamRequest("GET", _path(response_id)))
        except UpstreamError as error:
            if error.status == _NOT_FOUND:
                raise answer_lost() from None
            return  # the next attempt will see
        if found.get("status") in ("cancelled", "failed"):
            translation.conclude(found)

    async def _begin(self, request: UpstreamRequest, sink: Sink) -> None:
        """Pass a new response on. If that is cancelled before its id is noted, note that first, within a moment.

        Else nobody could go on with it or stop it.
        """
        translation = _Translation(sink, Translator())
        passing = asyncio.create_task(self._pass_on(request, translation))
        try:
            await asyncio.shield(passing)
        except asyncio.CancelledError:
            await asyncio.wait((passing, translation.is_noted), timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    async def _wait_for_rest(self, translator: Translator, sink: Sink) -> None:
        """Have the rest of a response as a whole, when it is complete, because it can no longer be streamed."""
        request = UpstreamRequest("GET", _path(translator.response_id or ""))
        try:
            response = await self._client.fetch(request)
            while response.get("status") in ("queued", "in_progress"):
                await asyncio.sleep(_POLL)
                response = await self._client.fetch(request)
            chunk = translator.conclude(response)
        except Failed as failure:
            raise _failed(failure) from None
        except Malformed:
            raise _malformed() from None
        except UpstreamError as error:
            if error.status in (*_NO_STREAM, _NOT_FOUND):
                raise answer_lost() from None
            raise
        sink.take([json_text.dumps(chunk)])

    async def _pass_on(self, request: UpstreamRequest, translation: "_Translation") -> None:
        try:
            await self._client.stream(request, translation)
            if translation.response_id is not None and not translation.is_finished:
                await self._ask_after(translation.response_id, translation)
        except Failed as failure:
            if not failure.has_ended and translation.response_id is not None:
                self.abandon(translation.response_id)
            raise _failed(failure) from None
        except Malformed:
            raise _malformed() from None

    def abandon(self, answer_id: str) -> None:
        """See `Upstream.abandon`."""
        if len(self._farewells) < _MOST_FAREWELLS:
            task = asyncio.create_task(self._cancel(answer_id))
            self._farewells.add(task)
            task.add_done_callback(self._farewells.discard)

    async def _cancel(self, response_id: str) -> None:
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._client.fetch(UpstreamRequest("POST", f"{_path(response_id)}/cancel"))
        except (TimeoutError, UpstreamError) as error:
            logger.warning("response %s not cancelled: %r", response_id, error)


class _Translation:
    """A sink of events that gives their chunks to a sink of chunks."""

    def __init__(self, sink: Sink, translator: Translator) -> None:
        self._sink = sink
        self._translator = translator
        self.is_noted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the response's id is noted."""

        self._begun: str | None = None
        self._waiting: Sequence[bytes] = ()
        """What came with the first event, or after it, and waits until its id is noted."""

    @property
    def response_id(self) -> str | None:
        return self._translator.response_id

    @property
    def is_finished(self) -> bool:
        return self._translator.finish_reason is not None

    def conclude(self, response: Mapping[str, Any]) -> dict[str, Any]:
        """See `Translator.conclude`."""
        return self._translator.conclude(response)

    async def begin(self, answer_id: str) -> None:
        """See `Sink.begin`."""
        await self._sink.begin(answer_id)
        self.is_noted.set_result(None)

    def take(self, chunks: Sequence[bytes]) -> bool:
        """See `Sink.take`; here they are events.

        Raises:
            Failed: the response has, after what is given to the sink.
            Malformed: one is none.
        """
        translated = list[bytes]()
        for index, raw in enumerate(chunks):
            event = _parse(raw)
            if self._translator.response_id is None and (response_id := response_id_of(event)) is not None:
                self._begun, self._waiting = response_id, chunks[index:]
                self._translator.response_id = response_id
                return False
            try:
                translated += map(json_text.dumps, self._translator.translate(event))
            except Failed:
                self._sink.take(translated)
                raise
        return not translated or self._sink.take(translated)

    async def room(self) -> None:
        """See `Sink.room`."""
        if self._begun is not None:
            await self.begin(self._begun)
            waiting, self._begun, self._waiting = self._waiting, None, ()
            if self.take(waiting):
                return
        await self._sink.room()


def _failed(failure: Failed) -> UpstreamError:
    message = "The upstream's response failed."
    return UpstreamError.of(failure.body, message, is_final=failure.is_final, is_lost=True)


def _malformed() -> UpstreamError:
    return UpstreamError("The upstream sent a malformed event.", code="upstream_garbage", is_final=False)


def _creation(chat: dict[str, Any], key: str) -> UpstreamRequest:
    try:
        body = translate_request(chat)
    except Untranslatable as error:
        raise UpstreamError(
            str(error),
            code="unsupported_parameter",
            type_="invalid_request_error",
            param=error.param,
            is_final=True,
            status=400,
        ) from None
    except (KeyError, TypeError, AttributeError, ValueError):  # what a server of Chat Completions would refuse
        raise UpstreamError(
            "The request is not in the shape that Chat Completions has.",
            code="invalid_value",
            type_="invalid_request_error",
            is_final=True,
            status=400,
        ) from None
    return UpstreamRequest("POST", "responses", json_text.dumps(body), headers={"Idempotency-Key": key})


def _resumption(chat: Mapping[str, Any], translator: Translator) -> UpstreamRequest:
    query = {"stream": "true"}
    if translator.seen >= 0:
        query["starting_after"] = str(translator.seen)
    if chat.get("logprobs"):
        query["include[]"] = LOGPROBS
    return UpstreamRequest("GET", _path(translator.response_id or ""), query=query)


def _path(response_id: str) -> str:
    return f"responses/{quote(response_id, safe='')}"


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        event = json_text.loads(raw)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise Malformed
    return event
