"""`/v1/chat/completions` as the official SDK sees it."""

import asyncio
import json
from typing import Literal

import openai
import pytest
from harness.client import MESSAGES, body
from harness.polling import wait_until
from openai import AsyncOpenAI, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, TypeAdapter

from shared import keys

ASKED = {"model": "simulator", "messages": MESSAGES}
TOOLS = [
    {"type": "function", "function": {"name": name, "strict": True, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
]
CALLS = [{"name": "weather", "arguments": {"city": "大阪"}}, {"name": "time", "arguments": {"zone": "JST"}}]

KINDS = {
    "text": ({"deltas": ["や", "っ", "", "ほ\r\n"]}, {}),
    "tools": ({"tool_calls": CALLS}, {"tools": TOOLS, "parallel_tool_calls": True}),
    "text and tools": ({"text": "Let me see.", "tool_calls": CALLS}, {"tools": TOOLS}),
    "reasoning": ({"reasoning": "Hm, let me think.", "text": "42"}, {"reasoning_effort": "low"}),
    "refusal": ({"refusal": "I cannot help with that."}, {}),
    "logprobs": ({"text": "one two three"}, {"logprobs": True, "top_logprobs": 2}),
    "length": ({"text": "one two three"}, {"max_completion_tokens": 2}),
    "content filter": ({"text": "one", "finish_reason": "content_filter"}, {}),
    "several": ({}, {"n": 3}),
    "several with tools": ({"tool_calls": CALLS}, {"n": 2, "tools": TOOLS}),
    "unknown members": ({"text": "a b", "extra": {"service_tier": "default", "x_vendor": {"a": [1, None]}}}, {}),
}
kinds = pytest.mark.parametrize(("script", "fields"), KINDS.values(), ids=KINDS.keys())


def scripted(script=None, **fields):
    """Arguments of `create`; `script` tells the simulator what to answer."""
    return {**ASKED, **fields, "extra_body": {"simulator": {"ttft": 0, "interval": 0, **(script or {})}}}


def open_client(url):
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
async def sdk(stack):
    async with open_client(stack.apis[0].url) as client:
        yield client


@pytest.fixture
async def direct(upstream_url):
    """The same client of the upstream itself."""
    async with open_client(upstream_url) as client:
        yield client


@pytest.fixture
async def impatient_sdk(impatient):
    async with open_client(impatient.apis[0].url) as client:
        yield client


def plain(completion):
    """What is comparable of a completion: two requests to the simulator have ids of their own."""
    content = completion.to_dict()
    for name in ("id", "created"):
        content.pop(name)
    for choice in content["choices"]:
        for call in choice["message"].get("tool_calls") or []:
            del call["id"]
    return content


@kinds
async def test_a_completion_is_what_the_upstream_would_have_answered(sdk, direct, script, fields):
    ours = await sdk.chat.completions.create(**scripted(script, **fields))
    theirs = await direct.chat.completions.create(**scripted(script, **fields))
    assert plain(ours) == plain(theirs)
    TypeAdapter(ChatCompletion).validate_python(ours.to_dict())


@kinds
async def test_a_stream_is_what_the_upstream_would_have_sent(sdk, direct, key, script, fields):
    posted = scripted({**script, "key": key}, **fields, stream=True, stream_options={"include_usage": True})
    ours = [chunk.to_dict() async for chunk in await sdk.chat.completions.create(**posted)]
    theirs = [chunk.to_dict() async for chunk in await direct.chat.completions.create(**posted)]
    assert len({chunk["id"] for chunk in ours}) == 1
    assert [comparable(chunk) for chunk in ours] == [comparable(chunk) for chunk in theirs]
    for chunk in ours:
        TypeAdapter(ChatCompletionChunk).validate_python(chunk)


def comparable(chunk):
    chunk = {name: value for name, value in chunk.items() if name not in ("id", "created")}
    for choice in chunk["choices"]:
        for call in choice["delta"].get("tool_calls") or []:
            call.pop("id", None)
    return chunk


@kinds
async def test_the_sdks_own_accumulator_gives_our_completion(sdk, key, script, fields):
    posted = scripted({**script, "key": key}, **fields)
    whole = (await sdk.chat.completions.create(**posted, extra_headers={"X-Piropiro-Test": key})).to_dict()
    state = ChatCompletionStreamState()
    async for chunk in await sdk.chat.completions.create(**posted, stream=True, stream_options={"include_usage": True}):
        state.handle_chunk(chunk)
    folded = state.current_completion_snapshot.to_dict()
    for completion in (whole, folded):
        completion.pop("id")
        completion.pop("created")
        for choice in completion["choices"]:
            choice["message"] = {name: value for name, value in choice["message"].items() if value is not None}
            choice["message"].pop("parsed", None)
            for call in choice["message"].get("tool_calls", []):
                call.pop("id")
                call.pop("index", None)
                call["function"].pop("parsed_arguments", None)
            choice["logprobs"] = {k: v for k, v in (choice.get("logprobs") or {}).items() if v}
    assert folded == whole


async def test_usage_is_shown_only_to_those_who_ask(sdk):
    asked = await sdk.chat.completions.create(**scripted(), stream=True, stream_options={"include_usage": True})
    *chunks, last = [chunk async for chunk in asked]
    assert (last.choices, last.usage.total_tokens > 0) == ([], True)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    unasked = [chunk.to_dict() async for chunk in await sdk.chat.completions.create(**scripted(), stream=True)]
    assert all(chunk["choices"] and "usage" not in chunk for chunk in unasked)


async def test_everything_reaches_the_upstream(sdk, simulator, key):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
    ]
    extra = {"x_vendor": {"a": [1, 1.0, None]}, "simulator": {"key": key, "deltas": ["a"], "ttft": 0}}
    fields = {"temperature": 0.5, "response_format": {"type": "json_object"}, "seed": 7}
    await sdk.chat.completions.create(model="m", messages=messages, **fields, extra_body=extra)
    sent = (await simulator.request(key))["body"]
    added = {"stream": True, "stream_options": {"include_usage": True}}
    assert sent == {"model": "m", "messages": messages, **fields, **extra, **added}


class Weather(BaseModel):
    """What a structured answer looks like."""

    city: str
    kind: Literal["sun", "rain"]


async def test_the_streaming_helper_parses_a_structured_answer(sdk):
    text = json.dumps({"city": "大阪", "kind": "rain"}, ensure_ascii=False)
    async with sdk.chat.completions.stream(**scripted({"text": text}), response_format=Weather) as stream:
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.parsed == Weather(city="大阪", kind="rain")
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)


async def test_the_streaming_helper_gives_parallel_tool_calls(sdk):
    async with sdk.chat.completions.stream(**scripted({"tool_calls": CALLS}), tools=TOOLS) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
        completion = await stream.get_final_completion()
    assert [(event.name, json.loads(event.arguments)) for event in done] == [(c["name"], c["arguments"]) for c in CALLS]
    assert len({call.id for call in completion.choices[0].message.tool_calls}) == 2


async def test_a_structured_answer_is_parsed_without_a_stream(sdk):
    asked = scripted({"text": '{"city": "Osaka", "kind": "sun"}'})
    completion = await sdk.chat.completions.parse(**asked, response_format=Weather)
    assert completion.choices[0].message.parsed.kind == "sun"


def test_the_synchronous_client_streams(stack):
    with OpenAI(base_url=f"{stack.apis[0].url}/v1", api_key="unused", max_retries=0) as client:
        stream = client.chat.completions.create(**scripted({"deltas": ["a", "b"]}), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "ab"


async def test_an_answer_names_its_chat_which_the_native_endpoints_know(sdk, api, other_api):
    raw = await sdk.chat.completions.with_raw_response.create(**scripted({"deltas": ["a", "b"]}))
    assert raw.headers["x-chat-id"] == raw.request_id
    assert raw.parse()._request_id == raw.request_id
    chat = await other_api.chat(raw.headers["x-chat-id"])
    assert (chat["status"], chat["text"], chat["usage"]) == ("done", "ab", raw.parse().usage.to_dict())
    async with sdk.chat.completions.with_streaming_response.create(**scripted(), stream=True) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (await api.chat(response.headers["x-chat-id"]))["status"] in ("running", "done")


async def test_the_stream_ends_with_done_and_has_nothing_but_data(api):
    async with api.open("POST", "/v1/chat/completions", json=body({"deltas": ["a"]}, stream=True)) as reading:
        await reading.rest()
    lines = reading.received.split(b"\n")
    assert all(line == b"" or line.startswith(b"data: ") for line in lines)
    assert lines[-3:] == [b"data: [DONE]", b"", b""]


async def test_an_idle_stream_is_kept_alive_without_an_empty_event(talkative, talkative_api):
    script = {"deltas": ["a", "b"], "interval": 1.5}
    asked = body(script, stream=True)
    async with talkative_api.open("POST", "/v1/chat/completions", json=asked) as reading:
        await reading.rest()
    assert reading.comments
    assert b": keep-alive\ndata: " in reading.received
    async with open_client(talkative.apis[0].url) as client:
        stream = await client.chat.completions.create(**scripted(script), stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "ab"


REFUSED = [
    (400, {}, openai.BadRequestError, 400),
    (404, {}, openai.NotFoundError, 404),
    (409, {}, openai.ConflictError, 409),
    (413, {}, openai.APIStatusError, 413),
    (422, {}, openai.UnprocessableEntityError, 422),
    (401, {}, openai.InternalServerError, 502),
    (403, {}, openai.InternalServerError, 502),
    (402, {}, openai.InternalServerError, 502),
    (429, {"retry_after": 0.01}, openai.RateLimitError, 429),
    (500, {}, openai.InternalServerError, 502),
    (503, {}, openai.InternalServerError, 502),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("status", "fields", "kind", "answered"), REFUSED)
async def test_the_upstreams_refusal_is_the_sdks_own_exception(sdk, status, fields, kind, answered, stream):
    fault = {"kind": "status", "status": status, "message": "No, sk-secret123 .", "code": "why", "retry_after": 0.01}
    with pytest.raises(kind) as caught:
        await sdk.chat.completions.create(**scripted({"fault": fault | fields}), stream=stream)
    error = caught.value
    assert (error.status_code, error.code) == (answered, "why")
    assert error.body["message"] == "No, *** ."
    assert error.response.headers["x-chat-id"] == error.request_id
    if answered == 429:
        assert error.response.headers["retry-after"] == "1"
        assert "x-should-retry" not in error.response.headers
    else:
        assert error.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_unknown_model_is_not_found(sdk, stream):
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.chat.completions.create(**ASKED | {"model": "missing-1"}, stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


INVALID = {
    "messages": {"messages": []},
    "n": {"n": 0},
    "stream": {"stream": "yes"},
    "stream_options": {"stream_options": [1]},
    "include_usage": {"stream_options": {"include_usage": 1}},
    "model": {"model": 1},
}


@pytest.mark.parametrize(("param", "fields"), INVALID.items())
async def test_a_bad_parameter_is_a_bad_request(sdk, param, fields):
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(**ASKED, extra_body=fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "error", "after": 2, "code": "boom"}, "boom"),
        ({"kind": "truncate", "after": 2}, "upstream_truncated"),
        ({"kind": "cut", "after": 2}, "upstream_disconnected"),
        ({"kind": "stall", "after": 2}, "upstream_stalled"),
    ],
)
async def test_a_failure_in_mid_stream_is_an_api_error(impatient_sdk, fault, code):
    asked = scripted({"deltas": ["a", "b", "c"], "fault": fault}) | {
        "extra_headers": {"X-Piropiro-On-Worker-Loss": "fail"}
    }
    stream = await impatient_sdk.chat.completions.create(**asked, stream=True)
    seen = []
    with pytest.raises(openai.APIError) as caught:
        await collect(stream, seen)
    assert [chunk.choices[0].delta.content for chunk in seen] == ["", "a", "b"]
    assert caught.value.code == code


async def collect(stream, seen):
    async for chunk in stream:
        seen.append(chunk)  # what came before an error stays


def failing_once(key):
    """The first attempt is cut after two deltas."""
    return {"key": key, "deltas": ["a", "b", "c"], "fault": {"kind": "cut", "after": 2, "times": 1}}


async def test_a_stream_whose_answer_is_begun_anew_says_so(sdk, key):
    stream = await sdk.chat.completions.create(**scripted(failing_once(key)), stream=True)
    seen = []
    with pytest.raises(openai.APIError) as caught:
        await collect(stream, seen)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in seen)
    assert (text, caught.value.code) == ("ab", "generation_restarted")


async def test_a_completion_whose_answer_is_begun_anew_is_the_new_one(sdk, simulator, key):
    completion = await sdk.chat.completions.create(**scripted(failing_once(key)))
    assert len(await simulator.requests(key)) == 2
    assert completion.choices[0].message.content == "abc"


async def test_a_stream_that_comes_after_the_restart_has_the_new_answer_alone(sdk, api, key):
    asked = scripted(failing_once(key)) | {"extra_headers": {"Idempotency-Key": key}}
    stream = await sdk.chat.completions.create(**asked, stream=True)
    with pytest.raises(openai.APIError):
        [chunk async for chunk in stream]
    again = [chunk async for chunk in await sdk.chat.completions.create(**asked, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in again if chunk.choices) == "abc"
    assert again[0].choices[0].delta.role == "assistant"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_continued_answer_is_seamless(sdk, simulator, key, stream):
    asked = scripted(failing_once(key)) | {"extra_headers": {"X-Piropiro-On-Worker-Loss": "continue"}}
    if stream:
        chunks = [chunk async for chunk in await sdk.chat.completions.create(**asked, stream=True)]
        state = ChatCompletionStreamState()
        for chunk in chunks:
            state.handle_chunk(chunk)
        completion = state.get_final_completion()
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    else:
        completion = await sdk.chat.completions.create(**asked)
    assert len(await simulator.requests(key)) == 2
    assert (completion.choices[0].message.role, completion.choices[0].message.content) == ("assistant", "abc")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_repeated_request_gets_the_first_answer(sdk, simulator, key, stream):
    asked = scripted({"key": key}) | {"extra_headers": {"Idempotency-Key": key}, "stream": stream}
    first = await sdk.chat.completions.with_raw_response.create(**asked)
    second = await sdk.chat.completions.with_raw_response.create(**asked)
    assert first.headers["x-chat-id"] == second.headers["x-chat-id"]
    if stream:
        chunks = [[chunk async for chunk in answer.parse()] for answer in (first, second)]
        assert chunks[0] == chunks[1]
    else:
        assert first.parse() == second.parse()
    assert len(await simulator.requests(key)) == 1


async def test_a_key_belongs_to_its_body_and_surface(sdk, api, key):
    await sdk.chat.completions.create(**scripted(), extra_headers={"Idempotency-Key": key})
    with pytest.raises(openai.UnprocessableEntityError):
        await sdk.chat.completions.create(**scripted(), temperature=0, extra_headers={"Idempotency-Key": key})
    native = {**ASKED, "simulator": {"ttft": 0, "interval": 0}}
    answer = await api.http.post("/v1/chats", json=native, headers={"Idempotency-Key": key})
    assert answer.status_code == 422


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_chat_is_a_conflict_that_is_not_tried_again(sdk, api, simulator, stack, key, stream):
    script = {"key": key, "fault": {"kind": "slow_headers"}}
    asking = asyncio.create_task(
        sdk.with_options(max_retries=2).chat.completions.create(
            **scripted(script), stream=stream, extra_headers={"Idempotency-Key": key}
        )
    )
    await wait_until(lambda: simulator.running(key))
    chat_id = stack.server.client.hget(keys.idempotency(key), "chat").decode()
    assert (await api.cancel(chat_id))["status"] == "cancelled"
    with pytest.raises(openai.ConflictError) as caught:
        await asking
    assert (caught.value.code, caught.value.request_id) == ("cancelled", chat_id)


async def test_a_cancelled_stream_is_an_api_error(sdk, api):
    asked = scripted({"deltas": ["a", "b"], "fault": {"kind": "stall", "after": 1}})
    raw = await sdk.chat.completions.with_raw_response.create(**asked, stream=True)
    stream = raw.parse()
    await anext(stream)
    await api.cancel(raw.headers["x-chat-id"])
    with pytest.raises(openai.APIError) as caught:
        [chunk async for chunk in stream]
    assert caught.value.code == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0, 1])
async def test_a_client_that_leaves_ends_the_generation_if_it_asked_for_that(sdk, simulator, key, stream, after):
    kind = "stall" if after else "slow_headers"
    script = {"key": key, "deltas": ["a", "b"], "fault": {"kind": kind} | ({"after": after} if after else {})}
    asked = scripted(script) | {"stream": stream, "extra_headers": {"X-Piropiro-On-Disconnect": "cancel"}}
    asking = asyncio.create_task(sdk.chat.completions.create(**asked))
    await wait_until(lambda: simulator.running(key))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    if stream and after and not asking.cancelled():
        await asking.result().close()
    assert await simulator.outcome(key, within=15) == "client_closed"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_nothing_otherwise(sdk, api, simulator, stack, key, stream):
    script = {"key": key, "deltas": ["a"] * 10, "interval": 0.1}
    asked = scripted(script) | {"stream": stream, "extra_headers": {"Idempotency-Key": key}}
    asking = asyncio.create_task(sdk.chat.completions.create(**asked))
    await wait_until(lambda: simulator.running(key))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    chat_id = stack.server.client.hget(keys.idempotency(key), "chat").decode()
    assert (await api.chat_when(chat_id, "done"))["text"] == "a" * 10


async def test_models_are_the_upstreams(sdk, direct):
    ours, theirs = [[model async for model in client.models.list()] for client in (sdk, direct)]
    assert ours
    assert ours == theirs
    assert await sdk.models.retrieve("simulator") == await direct.models.retrieve("simulator")


@pytest.mark.parametrize("model", ["missing", "some/model:free", "大阪"])
async def test_an_unknown_model_cannot_be_retrieved(sdk, model):
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.models.retrieve(model)
    assert model in caught.value.body["message"]


@pytest.mark.parametrize("path", ["..", "../chats", "a/../../chats", "%2e%2e/x", "."])
async def test_nothing_beside_the_models_can_be_asked_for(stack, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.apis[0].port)
    writer.write(f"GET /v1/models/{path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 404 " in answer.splitlines()[0]
    assert b"model_not_found" in answer
