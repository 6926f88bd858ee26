"""Errors of Chat Completions as the official SDK's own exception classes, whether streamed or not."""

import contextlib
import time
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

USER: Any = [{"role": "user", "content": "やっほ"}]


@pytest.fixture(scope="session")
def strict(start_shared_stack):
    """A replica and a worker that try once, and not for long."""
    return start_shared_stack(max_attempts=1, stall_timeout=1, max_body=10_000, max_output=5_000)


@pytest.fixture
def client(strict):
    with OpenAI(base_url=f"{strict.apis[0].url}/v1", api_key="unused", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def ask(request, client):
    """Ask, streaming or not, and read the answer."""

    def ask(client: OpenAI = client, **script: Any) -> None:
        answer: Any = client.chat.completions.create(
            model="simulator",
            messages=USER,
            stream=request.param,
            extra_body={"simulator": {"ttft": 0, "interval": 0, **script}},
        )
        if request.param:
            list(answer)

    return ask


def failing(status: int, **fault: Any) -> dict[str, Any]:
    return {"fault": {"kind": "status", "status": status, **fault}}


def test_a_bad_request_of_ours(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="simulator", messages="no list")
    assert caught.value.param == "messages"
    assert caught.value.type == "invalid_request_error"


def test_a_bad_request_of_the_upstreams(ask):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(tokns=1)
    assert caught.value.param == "simulator.tokns"


def test_a_model_that_the_upstream_does_not_know(client):
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="missing-model", messages=USER, stream=stream)
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(("status", "class_"), [(409, openai.ConflictError), (422, openai.UnprocessableEntityError)])
def test_other_statuses_that_blame_the_client_keep_their_class(ask, status, class_):
    with pytest.raises(class_, match="no"):
        ask(**failing(status, message="no"))


@pytest.mark.parametrize("status", [401, 403])
def test_the_operators_key_is_not_the_clients_fault(ask, status):
    with pytest.raises(openai.InternalServerError) as caught:
        ask(**failing(status, code="invalid_api_key"))
    assert (caught.value.status_code, caught.value.code) == (502, "invalid_api_key")


def test_a_rate_limit_says_when_to_try_again(ask):
    with pytest.raises(openai.RateLimitError) as caught:
        ask(**failing(429, retry_after=1))
    assert caught.value.response.headers["retry-after"] == "1"


async def test_the_sdk_waits_for_as_long_as_a_rate_limit_says(strict, simulator, key):
    # Our own worker tries three times before it gives up; the first of those that the SDK sends again succeeds.
    fault = {"kind": "status", "status": 429, "retry_after": 1, "times": 3}
    begun = time.monotonic()
    async with AsyncOpenAI(base_url=f"{strict.apis[0].url}/v1", api_key="unused", max_retries=1) as client:
        completion = await client.chat.completions.create(
            model="m",
            messages=USER,
            extra_body={"simulator": {"ttft": 0, "interval": 0, "text": "at last", "key": key, "fault": fault}},
        )
    assert completion.choices[0].message.content == "at last"
    assert time.monotonic() - begun >= 3
    assert [record["outcome"] for record in await simulator.requests(key)] == ["fault:status"] * 3 + ["finished"]


async def test_a_failure_of_the_upstreams_is_not_tried_again_by_the_sdk(strict, simulator, key):
    async with AsyncOpenAI(base_url=f"{strict.apis[0].url}/v1", api_key="unused", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="m", messages=USER, extra_body={"simulator": {"key": key, **failing(500, message="oops")}}
            )
    assert (caught.value.status_code, caught.value.response.headers["x-should-retry"]) == (502, "false")
    assert "oops" in caught.value.message
    assert len(await simulator.requests(key)) == 3  # the worker's own tries


def test_an_upstream_that_is_silent(ask):
    with pytest.raises(openai.APIError) as caught:
        ask(fault={"kind": "stall"})
    assert caught.value.code == "upstream_stalled"
    assert getattr(caught.value, "status_code", None) in (504, None)  # None if the stream had begun


@pytest.mark.parametrize("kind", ["error", "cut", "truncate", "done_without_finish", "garbage", "stall"])
def test_a_stream_that_fails_midway_raises(client, kind):
    stream = client.chat.completions.create(
        model="m",
        messages=USER,
        stream=True,
        extra_body={"simulator": {"ttft": 0, "deltas": ["a", "b", "c"], "fault": {"kind": kind, "after": 2}}},
    )
    text = ""
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - what came before counts too
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text == "ab"
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == caught.value.message
    assert {"type", "code"} <= caught.value.body.keys()


@pytest.mark.parametrize("kind", ["error", "cut", "truncate", "done_without_finish", "garbage", "stall"])
def test_an_answer_that_fails_midway_is_an_error_without_stream(client, kind):
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model="m",
            messages=USER,
            extra_body={"simulator": {"ttft": 0, "deltas": ["a", "b", "c"], "fault": {"kind": kind, "after": 2}}},
        )
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_the_streaming_helper_raises_what_failed_midway(client):
    with (  # noqa: PT012 - the events before count too
        pytest.raises(openai.APIError, match="oops"),
        client.chat.completions.stream(
            model="m",
            messages=USER,
            extra_body={"simulator": {"ttft": 0, "fault": {"kind": "error", "after": 3, "message": "oops"}}},
        ) as stream,
    ):
        events = [event.type for event in stream]
        assert "content.done" not in events


def test_an_answer_that_is_too_long(ask):
    with pytest.raises(openai.APIError) as caught:
        ask(tokens=5_000)
    assert caught.value.code == "output_too_long"


def test_a_body_that_is_too_large(client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 20_000}])
    assert caught.value.status_code == 413


def test_a_conversation_that_has_become_too_large(client):
    first = client.responses.create(model="m", input="x" * 6_000)
    second = client.responses.create(model="m", input="x" * 6_000, previous_response_id=first.id)
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(model="m", input="x" * 3_000, previous_response_id=second.id)
    assert (caught.value.status_code, caught.value.param) == (413, "input")


def test_a_clients_own_time_limit(client):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(
            model="m", messages=USER, extra_body={"simulator": {"ttft": 30}}
        )


def test_a_chat_that_is_cancelled_meanwhile(client, strict):
    """`X-Chat-Id` leads to the native endpoints, and so to the only way to stop a completion from elsewhere."""
    with client.chat.completions.with_streaming_response.create(
        model="m",
        messages=USER,
        stream=True,
        extra_body={"simulator": {"ttft": 0, "interval": 0.05, "tokens": 10_000}},
    ) as response:
        chat_id = response.headers["x-chat-id"]
        stream = response.parse()
        next(stream)
        httpx.post(f"{strict.apis[0].url}/v1/chats/{chat_id}/cancel").raise_for_status()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert "cancel" in caught.value.message.lower()


async def test_a_dropped_client_stops_its_generation_if_it_said_so(strict, simulator, key):
    async with AsyncOpenAI(base_url=f"{strict.apis[0].url}/v1", api_key="unused", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=USER,
            stream=True,
            extra_headers={"X-Piropiro-On-Disconnect": "cancel"},
            extra_body={"simulator": {"ttft": 0, "interval": 0.05, "tokens": 1_000, "key": key}},
        )
        await anext(aiter(stream))
        await stream.close()
    assert await simulator.outcome(key, within=20) == "client_closed"


async def test_a_dropped_client_stops_nothing_by_default(strict, connect, simulator, key):
    async with AsyncOpenAI(base_url=f"{strict.apis[0].url}/v1", api_key="unused", max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="m",
            messages=USER,
            stream=True,
            extra_body={"simulator": {"ttft": 0, "interval": 0.01, "tokens": 100, "key": key}},
        )
        stream = raw.parse()
        await anext(aiter(stream))
        with contextlib.suppress(httpx.HTTPError):
            await stream.close()
    assert await simulator.outcome(key, within=20) == "finished"
    chat = await connect(strict.apis[0].url).chat_when(raw.headers["x-chat-id"], "done")
    assert chat["usage"]["completion_tokens"] == 100
