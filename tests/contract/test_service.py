"""What is around the chats: health, documentation, and what a client is told while Redis is away."""

import asyncio
import signal
import time

import pytest
from harness.client import body
from harness.polling import wait_until

CALLS = [
    ("POST", "/v1/chat/stream"),
    ("POST", "/v1/chats"),
    ("GET", "/v1/chats/chat_aaaaaaaaaaaaaaaaaaaa"),
    ("GET", "/v1/chats/chat_aaaaaaaaaaaaaaaaaaaa/stream"),
    ("POST", "/v1/chats/chat_aaaaaaaaaaaaaaaaaaaa/cancel"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_aaaaaaaaaaaaaaaaaaaa"),
    ("GET", "/v1/responses/resp_aaaaaaaaaaaaaaaaaaaa?stream=true"),
    ("GET", "/v1/responses/resp_aaaaaaaaaaaaaaaaaaaa/input_items"),
    ("DELETE", "/v1/responses/resp_aaaaaaaaaaaaaaaaaaaa"),
    ("POST", "/v1/responses/resp_aaaaaaaaaaaaaaaaaaaa/cancel"),
    ("GET", "/readyz"),
]


def posted(method, path):
    if method != "POST":
        return None
    return {"input": "hi"} if path.startswith("/v1/responses") else body()


async def test_a_whole_stack_is_healthy_and_ready(api):
    assert (await api.http.get("/healthz")).status_code == 200
    assert (await api.http.get("/readyz")).status_code == 200


async def test_openapi_names_every_route(api):
    document = (await api.http.get("/openapi.json")).json()
    assert {(method, path) for path, item in document["paths"].items() for method in item} == {
        ("post", "/v1/chat/stream"),
        ("post", "/v1/chats"),
        ("get", "/v1/chats/{chat_id}"),
        ("get", "/v1/chats/{chat_id}/stream"),
        ("post", "/v1/chats/{chat_id}/cancel"),
        ("post", "/v1/chat/completions"),
        ("post", "/v1/responses"),
        ("get", "/v1/responses/{response_id}"),
        ("delete", "/v1/responses/{response_id}"),
        ("post", "/v1/responses/{response_id}/cancel"),
        ("get", "/v1/responses/{response_id}/input_items"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("get", "/healthz"),
        ("get", "/readyz"),
    }


async def test_openapi_documents_bodies_and_refusals(api):
    paths = (await api.http.get("/openapi.json")).json()["paths"]
    for path, media in (("/v1/chat/stream", "text/event-stream"), ("/v1/chats", "application/json")):
        post = paths[path]["post"]
        assert post["requestBody"]["required"]
        assert {"400", "413", "422", "429", "503"} <= post["responses"].keys()
        success = next(answer for status, answer in post["responses"].items() if status.startswith("2"))
        assert media in success["content"]


async def test_docs_answer(api):
    answer = await api.http.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


@pytest.fixture(scope="module")
def fragile(start_module_stack):
    """A stack whose server the tests take away and give back."""
    return start_module_stack()


@pytest.fixture
def without_redis(request, fragile):
    """Take the server away as the parameter says, for one test."""
    process = fragile.server.process
    if request.param == "hangs":
        process.signal(signal.SIGSTOP)
        yield
        process.signal(signal.SIGCONT)
    else:
        process.kill()
        yield
        fragile.server.start()


@pytest.mark.parametrize("without_redis", ["hangs", "is down"], indirect=True)
async def test_without_redis_every_call_is_503_within_two_seconds(fragile, connect, without_redis):
    api = connect(fragile.apis[0].url)
    durations = []
    for _ in range(3):  # a pause of the machine's is in one of them, a wait of the API's in all
        begun = time.monotonic()
        answers = await asyncio.gather(
            *(api.http.request(method, path, json=posted(method, path)) for method, path in CALLS)
        )
        durations.append(time.monotonic() - begun)
        for answer in answers:
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert min(durations) < 2
    assert (await api.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("without_redis", ["hangs", "is down"], indirect=True)
async def test_without_redis_a_wrong_request_is_still_a_wrong_request(fragile, connect, without_redis):
    api = connect(fragile.apis[0].url)
    assert (await api.http.post("/v1/chats", content=b"{")).status_code == 400
    assert (await api.http.get("/nowhere")).status_code == 404


@pytest.mark.parametrize("how", ["hangs", "is down"])
async def test_after_an_outage_chats_are_answered_again(start_stack, connect, how):
    stack = start_stack()
    api = connect(stack.apis[0].url)
    if how == "hangs":
        stack.server.process.signal(signal.SIGSTOP)
    else:
        stack.server.process.kill()
    assert (await api.http.get("/readyz")).status_code == 503
    if how == "hangs":
        stack.server.process.signal(signal.SIGCONT)
    else:
        stack.server.start()

    async def is_ready() -> bool:
        return (await api.http.get("/readyz")).is_success

    await wait_until(is_ready)
    assert (await api.ask(body({"deltas": ["a"]}))).events[-1].name == "done"
