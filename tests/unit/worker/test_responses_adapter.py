"""The adapter for the Responses API against servers that say exactly what a test has them say."""

import asyncio
import json

import pytest
from harness.scripted_server import CHUNKED, END, Sink, piece, response, running

from shared.settings import Settings
from worker import upstream
from worker.responses import ResponsesUpstream
from worker.upstream import Generation, UpstreamError

REQUEST = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
CREATED = {"type": "response.created", "response": {"id": "resp_/1", "created_at": 1, "model": "m"}}
NEW = Generation("key-1")


def stream(*events, start=0):
    """A response of numbered events."""
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events, start)]
    return CHUNKED % b"" + b"".join(piece(b"data: %b\n\n" % json.dumps(event).encode()) for event in numbered) + END


def text(delta):
    return {"type": "response.output_text.delta", "delta": delta, "logprobs": []}


COMPLETED = {"type": "response.completed", "response": {"status": "completed", "usage": None}}
WHOLE = stream(CREATED, text("a"), text("b"), COMPLETED)


class NotingSink(Sink):
    """Notes which answer begins, and how many chunks there were then."""

    def __init__(self):
        super().__init__()
        self.begun = []

    async def begin(self, answer_id):
        await asyncio.sleep(0)
        self.begun.append((answer_id, len(self.chunks)))

    @property
    def text(self):
        parsed = [json.loads(chunk) for chunk in self.chunks]
        return "".join(part["delta"].get("content", "") for chunk in parsed for part in chunk["choices"])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(upstream, "backoff", lambda _: 0.0)


async def ask(url, generation=NEW, request=REQUEST, **settings):
    sink = NotingSink()
    adapter = ResponsesUpstream(Settings(openai_base_url=url, upstream_retries=1, stall_timeout=1, **settings))
    try:
        await adapter.stream(request, sink, generation)
    finally:
        await adapter.close()
    return sink


def chunks_of(count):
    """What is stored after so many deltas."""
    return [
        {
            "created": 1,
            "model": "m",
            "upstream_sequence_number": number,
            "choices": [{"delta": {"content": "ab"[number - 1]}, "finish_reason": None}],
        }
        for number in range(1, count + 1)
    ]


async def test_an_answer_is_asked_for_once_and_its_id_told_first():
    async with running(WHOLE) as server:
        sink = await ask(server.url)
    assert (sink.begun, sink.text) == ([("resp_/1", 0)], "ab")
    ((head, body),) = server.requests
    assert head.startswith("POST /v1/responses HTTP/1.1\r\n")
    assert "\r\nIdempotency-Key: key-1\r\n" in head
    sent = json.loads(body)
    assert (sent["background"], sent["stream"], sent["store"]) == (True, True, True)


async def test_a_retry_has_the_same_idempotency_key():
    async with running(response(503, b"{}"), WHOLE) as server:
        assert (await ask(server.url)).text == "ab"
    assert ["Idempotency-Key: key-1" in head for head, _ in server.requests] == [True, True]


@pytest.mark.parametrize(("stored", "query"), [(0, "stream=true"), (1, "stream=true&starting_after=1")])
async def test_a_known_answer_is_resumed_after_what_is_stored(stored, query):
    rest = [CREATED, text("a"), text("b"), COMPLETED][stored + 1 if stored else 0 :]
    async with running(stream(*rest, start=stored + 1 if stored else 0)) as server:
        sink = await ask(server.url, Generation("key-1", "resp_/1", chunks_of(stored)))
    assert "ab"[:stored] + sink.text == "ab"
    assert sink.begun == []
    assert server.requests[0][0].startswith(f"GET /v1/responses/resp_%2F1?{query} HTTP/1.1\r\n")


async def test_an_answer_that_is_stored_whole_is_not_asked_for():
    end = {**chunks_of(1)[0], "choices": [{"delta": {}, "finish_reason": "stop"}]}
    usage = {**chunks_of(1)[0], "choices": [], "usage": None}
    async with running(WHOLE) as server:
        sink = await ask(server.url, Generation("key-1", "resp_/1", [*chunks_of(2), end, usage]))
    assert (sink.chunks, server.requests) == ([], [])


async def test_an_unknown_answer_is_lost_but_not_for_good():
    async with running(response(404, b"{}")) as server:
        with pytest.raises(UpstreamError) as caught:
            await ask(server.url, Generation("key-1", "resp_/1"))
    assert (caught.value.code, caught.value.is_lost, caught.value.is_final) == ("upstream_lost", True, False)


async def test_a_refusal_of_a_new_answer_is_final():
    async with running(response(404, b'{"error": {"message": "no such model", "code": "x"}}')) as server:
        with pytest.raises(UpstreamError) as caught:
            await ask(server.url)
    assert (caught.value.code, caught.value.is_lost, caught.value.is_final) == ("x", False, True)


async def test_what_came_before_a_failure_is_passed_on():
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "no"}}}
    async with running(stream(CREATED, text("a"), failed)) as server:
        sink = NotingSink()
        adapter = ResponsesUpstream(Settings(openai_base_url=server.url))
        with pytest.raises(UpstreamError) as caught:
            await adapter.stream(REQUEST, sink, NEW)
        await adapter.close()
    assert (sink.text, caught.value.is_lost, caught.value.is_final) == ("a", True, False)


async def test_garbage_is_a_failure_that_can_be_resumed():
    async with running(CHUNKED % b"" + piece(b"data: {\n\n") + END) as server:
        with pytest.raises(UpstreamError) as caught:
            await ask(server.url)
    assert (caught.value.code, caught.value.is_lost) == ("upstream_garbage", False)


async def test_what_cannot_be_translated_is_a_bad_request():
    with pytest.raises(UpstreamError) as caught:
        await ask("http://127.0.0.1:1/v1", request=b'{"messages":[],"n":2}')
    assert (caught.value.param, caught.value.status, caught.value.is_final) == ("n", 400, True)


async def test_a_response_too_old_to_be_streamed_is_polled():
    message = {"type": "message", "content": [{"type": "output_text", "text": "ab"}]}
    done = {"id": "resp_/1", "created_at": 1, "model": "m", "status": "completed", "output": [message], "usage": None}
    answers = [response(400, b"{}"), response(200, json.dumps(done).encode())]
    async with running(*answers) as server:
        sink = await ask(server.url, Generation("key-1", "resp_/1", chunks_of(1)))
    assert sink.text == "b"
    assert json.loads(sink.chunks[-1])["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("found", "is_lost", "code"),
    [
        ({"status": "cancelled"}, True, "cancelled"),
        ({"status": "failed", "error": {"code": "server_error", "message": "no"}}, True, "server_error"),
    ],
)
async def test_a_stream_that_just_ends_is_asked_after(found, is_lost, code):
    async with running(stream(CREATED, text("a")), response(200, json.dumps(found).encode())) as server:
        with pytest.raises(UpstreamError) as caught:
            await ask(server.url)
    assert (caught.value.is_lost, caught.value.code) == (is_lost, code)


async def test_a_stream_that_just_ends_may_be_of_a_response_that_is_gone():
    async with running(stream(CREATED, text("a")), response(404, b"{}")) as server:
        with pytest.raises(UpstreamError) as caught:
            await ask(server.url)
    assert (caught.value.is_lost, caught.value.is_final, caught.value.code) == (True, False, "upstream_lost")


async def test_a_stream_that_ends_too_soon_is_left_to_the_next_attempt():
    found = json.dumps({"status": "in_progress"}).encode()
    async with running(stream(CREATED, text("a")), response(200, found)) as server:
        assert (await ask(server.url)).text == "a"


async def test_an_abandoned_answer_is_cancelled_before_the_end():
    async with running(response(200, b"{}")) as server:
        adapter = ResponsesUpstream(Settings(openai_base_url=server.url))
        adapter.abandon("resp_/1")
        await adapter.close()
    assert server.requests[0][0].startswith("POST /v1/responses/resp_%2F1/cancel HTTP/1.1\r\n")


async def test_an_attempt_cancelled_before_it_knows_the_id_still_tells_it():
    late = [CHUNKED % b"", 0.2, WHOLE.partition(b"\r\n\r\n")[2], 5]
    async with running(late) as server:
        sink = NotingSink()
        adapter = ResponsesUpstream(Settings(openai_base_url=server.url))
        asking = asyncio.create_task(adapter.stream(REQUEST, sink, NEW))
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await adapter.close()
    assert [answer for answer, _ in sink.begun] == ["resp_/1"]
