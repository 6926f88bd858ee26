"""The adapter against servers that say exactly what a test has them say."""

import asyncio
import base64
import gzip
from contextlib import asynccontextmanager

import pytest
from harness.polling import wait_until
from harness.scripted_server import CHUNKED, END, Sink, piece, response, running
from pydantic import SecretStr

from shared.settings import Settings
from worker import upstream
from worker.responses import ResponsesUpstream
from worker.upstream import Generation, OpenAIUpstream, UpstreamError

GENERATION = Generation("key")
DONE = b"data: [DONE]\n\n"


ANSWER = CHUNKED % b"" + piece(b"data: 1\n\n") + piece(b"data: 2\n\n" + DONE) + END


@asynccontextmanager
async def adapter(url, **settings):
    settings = {"openai_api_key": SecretStr("sk-k"), "stall_timeout": 1.0, "upstream_retries": 1, **settings}
    adapter = OpenAIUpstream(Settings(openai_base_url=url, **settings))
    try:
        yield adapter
    finally:
        await adapter.close()


async def ask(url, sink=None, **settings):
    sink = sink or Sink()
    async with adapter(url, **settings) as upstream_:
        await upstream_.stream(b'{"x":1}', sink, GENERATION)
    return sink.chunks


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(upstream, "backoff", lambda _: 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_a_request_is_what_the_sdk_would_send():
    async with running(ANSWER) as server:
        headers = {"openai_org_id": "o", "openai_project_id": "p", "openai_custom_headers": "X-A: b\nX-C:d"}
        assert await ask(server.url, **headers) == [b"1", b"2"]
    head, body = server.requests[0]
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert body == b'{"x":1}'
    for line in ("Authorization: Bearer sk-k", "OpenAI-Organization: o", "OpenAI-Project: p", "X-A: b", "X-C: d"):
        assert f"\r\n{line}\r\n" in head
    assert "\r\nContent-Type: application/json\r\n" in head


async def test_an_answer_that_another_kind_of_worker_began_is_lost_and_not_given_twice():
    async with adapter("http://127.0.0.1:1") as upstream_:
        with pytest.raises(UpstreamError) as caught:
            await upstream_.stream(b"{}", Sink(), Generation("key", "resp_1"))
    assert (caught.value.code, caught.value.is_lost, caught.value.is_final) == ("upstream_lost", True, False)


@pytest.mark.parametrize(
    "request_",
    [
        b'{"messages":[{"role":"user","content":["x"]}]}',
        b'{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}',
        b'{"messages":[{"role":"assistant","tool_calls":[null]}]}',
        b'{"messages":[{"role":"user","content":"x"}],"tools":[1]}',
        b'{"messages":[{"role":"user","content":"x"}],"response_format":"json"}',
    ],
)
async def test_what_cannot_be_translated_because_of_its_shape_is_the_clients_error(request_):
    upstream_ = ResponsesUpstream(Settings(openai_base_url="http://127.0.0.1:1"))
    try:
        with pytest.raises(UpstreamError) as caught:
            await upstream_.stream(request_, Sink(), GENERATION)
    finally:
        await upstream_.close()
    assert (caught.value.type, caught.value.status, caught.value.is_final) == ("invalid_request_error", 400, True)


async def test_credentials_in_the_address_are_sent_as_such():
    async with running(ANSWER) as server:
        await ask(server.url.replace("//", "//u:p@").replace("/v1", "/v1?api-version=2"))
    head, _ = server.requests[0]
    assert head.startswith("POST /v1/chat/completions?api-version=2 ")
    assert f"Authorization: Basic {base64.b64encode(b'u:p').decode()}\r\n" in head


async def test_a_connection_is_used_again_after_done(monkeypatch):
    monkeypatch.setattr(upstream, "_END_OF_BODY", 10)
    late = [ANSWER[: -len(END)], 0.02, END]
    async with running(late, ANSWER) as server, adapter(server.url) as upstream_:
        for _ in range(3):
            sink = Sink()
            await upstream_.stream(b"{}", sink, GENERATION)
            assert sink.chunks == [b"1", b"2"]
    assert server.connections == 1


async def test_a_job_that_is_late_to_notice_its_end_takes_the_connection_from_nobody():
    slow = [CHUNKED % b"" + piece(b"data: 1\n\n"), 0.1, piece(b"data: 2\n\n" + DONE) + END]
    async with running(ANSWER, slow) as server, adapter(server.url) as upstream_:
        full, sink = Sink(size=1), Sink()
        late = asyncio.create_task(upstream_.stream(b"{}", full, GENERATION))
        await wait_until(lambda: full.chunks)  # its answer is there as a whole, and the connection free again
        next_ = asyncio.create_task(upstream_.stream(b"{}", sink, GENERATION))
        await wait_until(lambda: sink.chunks)
        full.more.set()
        await late
        await next_
        assert full.chunks == sink.chunks == [b"1", b"2"]
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: 1\n\ndata: 2\n\n",
        b"HTTP/1.0 200 OK\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n",
        response(200, b"data: 1\n\ndata: 2\n\n"),
        CHUNKED % b"Content-Encoding: gzip\r\n" + piece(gzip.compress(b"data: 1\n\ndata: 2\n\n" + DONE)) + END,
    ],
    ids=["until it closes", "HTTP/1.0", "in one piece", "compressed"],
)
async def test_an_answer_may_be_framed_in_any_way(answer):
    async with running([answer, 0.01, None]) as server:
        assert await ask(server.url) == [b"1", b"2"]


@pytest.mark.parametrize("cut", [[None], [b"5\r\nda", None], [b"zz\r\n"]], ids=["end", "half a piece", "no size"])
async def test_a_cut_answer_is_an_error_after_what_came(cut):
    async with running([CHUNKED % b"" + piece(b"data: 1\n\n"), 0.05, *cut]) as server:
        sink = Sink()
        with pytest.raises(UpstreamError) as raised:
            await ask(server.url, sink)
    assert raised.value.code == "upstream_disconnected"
    assert sink.chunks == [b"1"]


async def test_what_came_before_a_cut_is_given_even_to_a_sink_that_was_full():
    script = [CHUNKED % b"" + piece(b"data: 1\n\n"), 0.05, piece(b"data: 2\n\n"), 0.05, None]
    async with running(script) as server:
        sink = Sink(size=1)
        asking = asyncio.create_task(ask(server.url, sink))
        await wait_until(lambda: sink.chunks)
        await asyncio.sleep(0.3)  # until the connection has been cut
        assert sink.chunks == [b"1"]
        sink.more.set()
        sink.size = 10
        with pytest.raises(UpstreamError):
            await asking
    assert sink.chunks == [b"1", b"2"]


async def test_what_a_connection_does_after_done_is_nobodys_concern_even_if_the_sink_was_full():
    async with running([CHUNKED % b"" + piece(b"data: 1\n\n" + DONE), None]) as server:
        sink = Sink(size=1)
        asking = asyncio.create_task(ask(server.url, sink))
        await wait_until(lambda: sink.chunks)
        await asyncio.sleep(0.05)  # until the connection has ended
        sink.more.set()
        await asking
    assert sink.chunks == [b"1"]


async def test_a_full_sink_stops_the_upstream_and_is_no_stall():
    line = b"data: " + b"x" * 10_000 + b"\n\n"
    async with running([CHUNKED % b"", *[piece(line)] * 2000, piece(DONE), END]) as server:
        sink = Sink(size=3)
        asking = asyncio.create_task(ask(server.url, sink, stall_timeout=1))
        await asyncio.sleep(1.5)
        assert not asking.done()
        assert server.written < 15_000_000
        sink.size = 10**9
        sink.more.set()
        assert len(await asking) == 2000


async def test_silence_is_a_stall_and_slow_bytes_are_none():
    comments = [step for _ in range(5) for step in (piece(b": alive\n"), 0.3)]
    async with (
        running([CHUNKED % b"", *comments, piece(DONE), END], [CHUNKED % b"", piece(b"data: 1\n\n"), 9]) as server,
        adapter(server.url, stall_timeout=1) as upstream_,
    ):
        await upstream_.stream(b"{}", Sink(), GENERATION)
        with pytest.raises(UpstreamError) as raised:
            await upstream_.stream(b"{}", Sink(), GENERATION)
    assert raised.value.code == "upstream_stalled"
    assert not raised.value.is_final


async def test_headers_that_do_not_come_are_a_stall_after_the_retries():
    async with running([9]) as server:
        with pytest.raises(UpstreamError) as raised:
            await ask(server.url, stall_timeout=0.5)
    assert raised.value.code == "upstream_stalled"
    assert len(server.requests) == 2


async def test_cancelling_closes_the_connection_at_once():
    async with running([CHUNKED % b"", piece(b"data: 1\n\n"), 9]) as server, adapter(server.url) as upstream_:
        sink = Sink()
        asking = asyncio.create_task(upstream_.stream(b"{}", sink, GENERATION))
        while not sink.chunks:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(server.closed.wait(), 5)  # the server would say nothing for nine


async def test_an_error_of_the_sink_ends_the_stream_and_closes_the_connection():
    class Broken(Sink):
        def take(self, chunks):
            raise ZeroDivisionError

    async with running([CHUNKED % b"", piece(b"data: 1\n\n"), 9]) as server, adapter(server.url) as upstream_:
        with pytest.raises(ZeroDivisionError):
            await upstream_.stream(b"{}", Broken(), GENERATION)
        await asyncio.wait_for(server.closed.wait(), 5)


ERROR = b'{"error": {"message": "no", "type": "t", "code": 7, "param": "p"}}'


@pytest.mark.parametrize(
    ("refusal", "message", "code"),
    [
        (response(400, ERROR), "no", "7"),
        (response(401, b'{"message": "bare", "code": "c"}'), "bare", "c"),
        (response(403, gzip.compress(ERROR), b"Content-Encoding: gzip\r\n"), "no", "7"),
        (response(404, b"<html>not found</html>"), "The upstream answered 404.", "upstream_error"),
        (response(422, b"[1]"), "The upstream answered 422.", "upstream_error"),
        (response(418, b" " * 3_000_000 + ERROR), "The upstream answered 418.", "upstream_error"),
        (response(300, b""), "The upstream answered 300.", "upstream_error"),
    ],
    ids=["envelope", "bare", "compressed", "no JSON", "no object", "huge", "no error and no answer"],
)
async def test_a_refusal_says_what_the_upstream_said(refusal, message, code):
    async with running(refusal) as server:
        with pytest.raises(UpstreamError) as raised:
            await ask(server.url)
    assert (raised.value.message, raised.value.code, raised.value.is_final) == (message, code, True)
    assert len(server.requests) == 1


async def test_a_redirect_is_followed_and_the_key_stays_with_its_host():
    async with running(ANSWER) as other:
        location = b"Location: %b/x\r\n" % other.url.encode()
        async with running(response(307, b"", location)) as server:
            assert await ask(server.url) == [b"1", b"2"]
    head, body = other.requests[0]
    assert (head[:12], body) == ("POST /v1/x H", b'{"x":1}')
    assert "authorization" not in head.lower()


async def test_cookies_are_not_kept():
    with_cookie = CHUNKED % b"Set-Cookie: a=b\r\n" + piece(DONE) + END
    async with running(with_cookie) as server, adapter(server.url) as upstream_:
        for _ in range(2):
            await upstream_.stream(b"{}", Sink(), GENERATION)
    assert "cookie" not in server.requests[1][0].lower()


async def test_the_environments_proxy_is_used_with_its_credentials_unless_it_says_no(monkeypatch):
    async with running(ANSWER) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//u:p@").removesuffix("/v1"))
        assert await ask("http://upstream.test/v1") == [b"1", b"2"]
        head, _ = proxy.requests[0]
        assert head.startswith("POST http://upstream.test/v1/chat/completions ")
        assert f"Proxy-Authorization: Basic {base64.b64encode(b'u:p').decode()}\r\n" in head
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with running(ANSWER) as server:
            assert await ask(server.url) == [b"1", b"2"]


async def test_a_proxy_that_passes_tls_on_never_sees_the_key(monkeypatch):
    async with running(response(403, b"")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//u:p@").removesuffix("/v1"))
        with pytest.raises(UpstreamError) as raised:
            await ask("https://upstream.test/v1", openai_org_id="secret")
    assert raised.value.code == "upstream_unreachable"
    head, _ = proxy.requests[0]
    assert head.startswith("CONNECT upstream.test:443 ")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'u:p').decode()}\r\n" in head
    assert "sk-k" not in head
    assert "secret" not in head


async def test_an_endless_line_is_an_error(monkeypatch):
    monkeypatch.setattr(upstream, "_MAX_LINE", 100_000)
    async with running([CHUNKED % b"", *[piece(b"x" * 60_000)] * 3, 9]) as server:
        with pytest.raises(UpstreamError) as raised:
            await ask(server.url)
    assert raised.value.code == "upstream_garbage"
