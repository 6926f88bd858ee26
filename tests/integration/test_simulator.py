"""The simulator as a real process, seen through the official SDK and through plain HTTP."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

Json = dict[str, Any]
USER: Any = [{"role": "user", "content": "やっほ"}]
FAST: Json = {"ttft": 0, "interval": 0}


@pytest.fixture
def url(upstream_url: str) -> str:
    """A running simulator."""
    return upstream_url


@pytest_asyncio.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


@pytest_asyncio.fixture
async def sdk(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key that is this test's own."""
    return str(request.node.nodeid)


def scripted(script: Json) -> Json:
    return {"simulator": FAST | script}


def body(script: Json, **params: Any) -> Json:
    return {"model": "m", "messages": USER, "stream": True, **scripted(script), **params}


async def record_of(http: httpx.AsyncClient, key: str, ready: Callable[[Json], bool]) -> Json:
    """The last record of `key`, as soon as it is `ready`."""
    async with asyncio.timeout(5):
        while True:
            found = [record for record in (await http.get("/simulator/requests")).json() if record["key"] == key]
            if found and ready(found[-1]):
                last: Json = found[-1]
                return last
            await asyncio.sleep(0.005)


async def test_the_sdk_reads_a_stream(sdk: AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="any-model",
        messages=USER,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=scripted({}),
    )
    chunks = [chunk async for chunk in stream]
    *content, finish, usage = chunks
    assert content[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content).startswith("やっほー!")
    assert finish.choices[0].finish_reason == "stop"
    assert usage.usage is not None
    assert usage.usage.completion_tokens == len(content) - 1
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        (finish.id, finish.created, "any-model"),
    }


async def test_the_sdk_accumulates_tool_calls(sdk: AsyncOpenAI) -> None:
    calls = [{"name": "f", "arguments": {"city": "京都"}}, {"name": "g", "arguments": {}}]
    extra = scripted({"tool_calls": calls, "fragment": 7})
    async with sdk.chat.completions.stream(model="m", messages=USER, extra_body=extra) as stream:
        completion = await stream.get_final_completion()
    message = completion.choices[0].message
    assert completion.choices[0].finish_reason == "tool_calls"
    assert [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()] == [
        ("f", {"city": "京都"}),
        ("g", {}),
    ]


async def test_the_sdk_reads_a_completion_of_several_choices(sdk: AsyncOpenAI) -> None:
    completion = await sdk.chat.completions.create(
        model="m", messages=USER, n=2, logprobs=True, extra_body=scripted({"tokens": 4})
    )
    assert [choice.index for choice in completion.choices] == [0, 1]
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert "".join(entry.token for entry in logprobs.content or ()) == completion.choices[0].message.content


async def test_several_choices_are_interleaved(sdk: AsyncOpenAI) -> None:
    extra = scripted({"deltas": ["a", "b"]})
    stream = await sdk.chat.completions.create(model="m", messages=USER, n=2, stream=True, extra_body=extra)
    assert [chunk.choices[0].index async for chunk in stream] == [0, 1] * 4


async def test_models_are_listed(sdk: AsyncOpenAI) -> None:
    names = [model.id async for model in sdk.models.list()]
    assert (await sdk.models.retrieve(names[0])).id == names[0]
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.models.retrieve("nobody/knows")
    assert caught.value.code == "model_not_found"


async def test_errors_become_the_exceptions_of_the_sdk(sdk: AsyncOpenAI) -> None:
    create = sdk.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="missing-model"):
        await create(model="missing-model", messages=USER)
    with pytest.raises(openai.BadRequestError) as bad:
        await create(model="m", messages=USER, extra_body=scripted({"tokns": 1}))
    assert bad.value.param == "simulator.tokns"
    with pytest.raises(openai.AuthenticationError, match="invalid-secr"):
        await sdk.with_options(api_key="invalid-secret-key").models.list()
    with pytest.raises(openai.APIError, match="oops"):
        async for _ in await create(
            model="m",
            messages=USER,
            stream=True,
            extra_body=scripted({"fault": {"kind": "error", "after": 1, "message": "oops"}}),
        ):
            pass


async def test_times_lets_a_retry_succeed(sdk: AsyncOpenAI, http: httpx.AsyncClient, key: str) -> None:
    fault = {"kind": "status", "status": 429, "times": 2, "retry_after": 0.01}
    completion = await sdk.with_options(max_retries=2).chat.completions.create(
        model="m", messages=USER, extra_body=scripted({"text": "at last", "key": key, "fault": fault})
    )
    assert completion.choices[0].message.content == "at last"
    records = [entry for entry in (await http.get("/simulator/requests")).json() if entry["key"] == key]
    assert [(entry["retry"], entry["outcome"]) for entry in records] == [
        (0, "fault:status"),
        (1, "fault:status"),
        (2, "finished"),
    ]


async def test_the_same_request_gets_the_same_bytes(http: httpx.AsyncClient) -> None:
    first = await http.post("/v1/chat/completions", json=body({}))
    second = await http.post("/v1/chat/completions", json=body({}))
    other = await http.post("/v1/chat/completions", json=body({}, seed=1))
    assert first.content == second.content
    assert first.content != other.content
    assert first.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_fragments_make_the_same_stream(http: httpx.AsyncClient) -> None:
    script = json.dumps({"text": "ピロ👍🏽\u2028\r\n", **FAST})
    plain = {"model": "m", "messages": USER, "stream": True}
    whole = await http.post("/v1/chat/completions", json=plain, headers={"X-Simulator": script})
    fragmented = json.dumps({"text": "ピロ👍🏽\u2028\r\n", "fragment": 3, **FAST})
    request = http.stream("POST", "/v1/chat/completions", json=plain, headers={"X-Simulator": fragmented})
    async with request as response:
        pieces = [piece async for piece in response.aiter_raw()]
    assert max(map(len, pieces)) <= 3
    without_id = re.compile(rb'"(id|created)":("[^"]*"|\d+)')
    assert without_id.sub(b"", b"".join(pieces)) == without_id.sub(b"", whole.content)


@pytest.mark.parametrize("stream", [True, False])
async def test_cut_ends_without_terminator(http: httpx.AsyncClient, key: str, stream: bool) -> None:
    script = {"key": key, "deltas": ["a", "b"], "fault": {"kind": "cut", "after": 1}}
    received = bytearray()

    async def receive() -> None:
        async with http.stream("POST", "/v1/chat/completions", json=body(script, stream=stream)) as response:
            async for piece in response.aiter_raw():
                received.extend(piece)

    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|without sending complete"):
        await receive()
    assert received
    assert not received.endswith((b"\n\n", b"}"))
    record = await record_of(http, key, lambda record: record["closed_at"])
    assert (record["outcome"], record["faults"]) == ("fault:cut", ["cut"])
    assert record["deltas_sent"] == int(stream)


@pytest.mark.parametrize("kind", ["truncate", "done_without_finish"])
async def test_a_fault_may_end_cleanly(http: httpx.AsyncClient, kind: str) -> None:
    script = {"deltas": ["a", "b"], "fault": {"kind": kind, "after": 2}}
    response = await http.post("/v1/chat/completions", json=body(script))
    assert '"finish_reason":"' not in response.text
    assert response.text.endswith("data: [DONE]\n\n") == (kind == "done_without_finish")
    whole = await http.post("/v1/chat/completions", json=body(script, stream=False))
    assert whole.json()["choices"][0]["finish_reason"] is None


async def test_garbage_is_sent_as_it_is(http: httpx.AsyncClient) -> None:
    script = {"deltas": ["a"], "fault": {"kind": "garbage", "text": "<html>\x00"}}
    assert "<html>\x00" in (await http.post("/v1/chat/completions", json=body(script))).text
    assert (await http.post("/v1/chat/completions", json=body(script, stream=False))).text == "<html>\x00"


@pytest.mark.parametrize(
    "script",
    [
        {"fault": {"kind": "stall"}},
        {"fault": {"kind": "slow_headers"}},
        {"tokens": 10_000, "interval": 60},
        {"ttft": 60},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_noticed_at_once(
    url: str, http: httpx.AsyncClient, key: str, script: Json, stream: bool
) -> None:
    async with httpx.AsyncClient(base_url=url) as leaver:
        request = asyncio.ensure_future(
            leaver.post("/v1/chat/completions", json=body(script | {"key": key}, stream=stream))
        )
        await record_of(http, key, lambda record: record["outcome"] == "running")
        request.cancel()
        await asyncio.wait((request,))
    # Within seconds, in which none of the scripts has it send anything that could fail.
    record = await record_of(http, key, lambda record: record["closed_at"])
    assert record["outcome"] == "client_closed"


async def test_a_stall_can_pass(http: httpx.AsyncClient, key: str) -> None:
    script = {"key": key, "deltas": ["a", "b"], "fault": {"kind": "stall", "after": 1, "seconds": 0.2}}
    response = await http.post("/v1/chat/completions", json=body(script))
    record = await record_of(http, key, lambda record: record["closed_at"])
    assert response.text.endswith("data: [DONE]\n\n")
    assert (record["outcome"], record["faults"]) == ("finished", ["stall"])
    assert record["closed_at"] - record["started"] >= 195


@pytest.mark.parametrize("stream", [True, False])
async def test_no_delta_comes_early(http: httpx.AsyncClient, key: str, stream: bool) -> None:
    script = {"key": key, "tokens": 51, "ttft": 0.1, "interval": 0.004}
    await http.post("/v1/chat/completions", json=body(script, stream=stream))
    record = await record_of(http, key, lambda record: record["closed_at"])
    assert record["closed_at"] - record["started"] >= 295


async def test_a_record_tells_what_was_asked_but_no_key(http: httpx.AsyncClient, key: str) -> None:
    sent = body({"key": key})
    await http.post("/v1/chat/completions", json=sent, headers={"Authorization": "Bearer sk-secret"})
    record = await record_of(http, key, lambda record: record["closed_at"])
    assert record["body"] == sent
    assert record["headers"]["authorization"] is True
    assert "sk-secret" not in json.dumps(record)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"{}", 400),
        ("GET", "/v1/chat/completions", b"", 405),
        ("POST", "/v1/nowhere", b"", 404),
    ],
)
async def test_errors_have_the_envelope(
    http: httpx.AsyncClient, method: str, path: str, content: bytes, status: int
) -> None:
    response = await http.request(method, path, content=content)
    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_a_cut_answer_can_be_continued(sdk: AsyncOpenAI) -> None:
    async def ask(messages: Any, **extra: Any) -> str:
        completion = await sdk.chat.completions.create(model="m", messages=messages, extra_body=scripted({}) | extra)
        return completion.choices[0].message.content or ""

    whole = await ask(USER)
    said = {"role": "assistant", "content": whole[:20]}
    assert await ask([*USER, said], continue_final_message=True) == whole[20:]
