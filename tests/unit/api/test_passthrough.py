import asyncio
import json
from contextlib import asynccontextmanager, suppress

import pytest

from api import passthrough as passthrough_module
from api.errors import ApiError
from api.passthrough import Passthrough
from shared.settings import Settings

KEY = "my-own-key"


@asynccontextmanager
async def asking(base_url):
    passthrough = Passthrough.of(Settings(openai_base_url=base_url, openai_api_key=KEY))
    try:
        yield passthrough
    finally:
        await passthrough.close()


@asynccontextmanager
async def upstream(answer, *, leaves=True):
    """A server that gives the same answer to every request; its base URL, and the requests it got."""
    requests, serving = [], set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        if not leaves:
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", requests
        await asyncio.gather(*serving)


def http(status, body, headers=""):
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


async def refusal(answer, **options):
    async with upstream(answer, **options) as (url, _), asking(url) as passthrough:
        with pytest.raises(ApiError) as caught:
            await passthrough.get("models")
    return caught.value


async def test_what_the_upstream_says_passes_as_it_is():
    body = b'{"object": "list",  "data": [{"id": "a", "x": 1.0}]}'
    async with upstream(http(200, body)) as (url, requests), asking(url) as passthrough:
        assert await passthrough.get("models/a%2Fb") == body
    assert requests[0].startswith(b"GET /v1/models/a%2Fb HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}\r\n".encode() in requests[0]


@pytest.mark.parametrize(
    ("status", "answered"), [(400, 400), (404, 404), (429, 429), (401, 502), (403, 502), (418, 502), (500, 502)]
)
async def test_refusals_are_mapped_and_have_no_secrets(status, answered):
    body = json.dumps({"error": {"message": f"Not with {KEY}", "type": "t", "param": None, "code": "c"}}).encode()
    error = await refusal(http(status, body, "Retry-After: 7\r\n"))
    assert (error.status, error.message, error.type, error.code) == (answered, "Not with ***", "t", "c")
    assert error.headers == ({"Retry-After": "7"} if status == 429 else {})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"a":'])
async def test_an_answer_that_is_no_object_is_a_bad_gateway(body):
    error = await refusal(http(200, body))
    assert (error.status, error.code) == (502, "upstream_garbage")


async def test_an_endless_answer_is_a_bad_gateway(monkeypatch):
    monkeypatch.setattr(passthrough_module, "_MAX_BODY", 1000)
    error = await refusal(http(200, b" " * 2000))
    assert (error.status, error.code) == (502, "upstream_garbage")


async def test_a_cut_answer_is_a_bad_gateway():
    error = await refusal(http(200, b"{}   ")[:-3])
    assert (error.status, error.code) == (502, "upstream_unreachable")


async def test_an_upstream_that_is_not_there_is_a_bad_gateway(unused_tcp_port):
    async with asking(f"http://127.0.0.1:{unused_tcp_port}/v1") as passthrough:
        with pytest.raises(ApiError) as caught:
            await passthrough.get("models")
    assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")


async def test_a_silent_upstream_is_a_timeout(monkeypatch):
    monkeypatch.setattr(passthrough_module, "_PATIENCE", 0.05)
    error = await refusal(b"", leaves=False)
    assert (error.status, error.code) == (504, "upstream_timeout")
