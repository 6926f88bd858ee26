"""What an OpenAI client sees when workers and replicas die or are told to stop."""

import asyncio

import openai
import pytest
from harness.client import MESSAGES, numbered
from harness.polling import wait_until
from openai import AsyncOpenAI

from shared import keys

LEASE = 1.0
DELTAS = numbered(30)


@pytest.fixture(scope="module")
def relay_stack(start_module_stack):
    return start_module_stack(lease=LEASE, drain=5, max_attempts=3)


@pytest.fixture
def relay(relay_stack):
    """A stack with one worker that is well."""
    relay_stack.wait_until_ready(workers=1)
    return relay_stack


@pytest.fixture
async def sdk(relay):
    async with AsyncOpenAI(base_url=f"{relay.apis[0].url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def resuming(start_stack):
    """A stack with one worker, whose upstream can go on with an answer."""
    return start_stack(upstream="responses", lease=LEASE, drain=5, max_attempts=3)


def hanging(key, **headers):
    """A request whose first attempt hangs after five deltas."""
    fault = {"kind": "stall", "after": 5, "times": 1}
    script = {"key": key, "deltas": DELTAS, "ttft": 0, "interval": 0, "fault": fault}
    return {
        "model": "simulator",
        "messages": MESSAGES,
        "extra_body": {"simulator": script},
        "extra_headers": {"Idempotency-Key": key, **headers},
    }


def replace_worker(stack):
    """Kill the worker there is, and start another."""
    (doomed,) = stack.workers
    stack.kill_worker(doomed)
    stack.start_worker()


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def read(stream, chunks):
    async for chunk in stream:
        chunks.append(chunk)


async def lose_worker_midway(relay, sdk, asked):
    """Read a stream whose worker is killed after five deltas, to its end or error; what came, and that error."""
    chunks = []
    reading = asyncio.create_task(read(await sdk.chat.completions.create(**asked, stream=True), chunks))
    await wait_until(lambda: text_of(chunks) == "".join(DELTAS[:5]))
    replace_worker(relay)
    try:
        await reading
    except openai.APIError as error:
        return chunks, error
    return chunks, None


async def test_a_stream_whose_worker_dies_says_that_what_it_gave_is_superseded(relay, sdk, key):
    chunks, error = await lose_worker_midway(relay, sdk, hanging(key))
    assert text_of(chunks) == "".join(DELTAS[:5])
    assert error.code == "generation_restarted"
    again = []
    await read(await sdk.chat.completions.create(**hanging(key), stream=True), again)
    assert text_of(again) == "".join(DELTAS)
    assert again[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in again}) == 1


async def test_a_stream_that_is_to_continue_is_seamless_when_its_worker_dies(relay, sdk, key):
    headers = {"X-Piropiro-On-Worker-Loss": "continue"}
    chunks, error = await lose_worker_midway(relay, sdk, hanging(key, **headers))
    assert error is None
    assert text_of(chunks) == "".join(DELTAS)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices and chunk.choices[0].delta.role] == [
        "assistant"
    ]


async def test_a_stream_that_is_to_fail_with_its_worker_fails(relay, sdk, key):
    chunks, error = await lose_worker_midway(relay, sdk, hanging(key, **{"X-Piropiro-On-Worker-Loss": "fail"}))
    assert (text_of(chunks), error.code) == ("".join(DELTAS[:5]), "worker_lost")


async def test_a_completion_does_not_notice_that_its_worker_dies(relay, sdk, simulator, key):
    asking = asyncio.create_task(sdk.chat.completions.create(**hanging(key)))
    await wait_until(lambda: simulator.running(key))
    replace_worker(relay)
    completion = await asking
    assert completion.choices[0].message.content == "".join(DELTAS)
    assert len(await simulator.requests(key)) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_replica_that_ends_says_so_and_another_has_the_whole_answer(
    start_stack, connect, simulator, key, stream
):
    stack = start_stack(apis=2, workers=1)
    asked = hanging(key) | {"stream": stream}
    asked["extra_body"]["simulator"] |= {"interval": 0.1, "fault": []}
    async with (
        AsyncOpenAI(base_url=f"{stack.apis[0].url}/v1", api_key="unused", max_retries=0) as leaving,
        AsyncOpenAI(base_url=f"{stack.apis[1].url}/v1", api_key="unused", max_retries=0) as other,
    ):
        asking = asyncio.create_task(leaving.chat.completions.create(**asked))
        await wait_until(lambda: simulator.running(key))
        chunks, reading = [], asking
        if stream:
            reading = asyncio.create_task(read(await asking, chunks))
            await wait_until(lambda: text_of(chunks))
        exiting = asyncio.create_task(stack.apis[0].process.terminate(within=8))
        with pytest.raises(openai.APIError) as caught:
            await reading
        assert caught.value.code == "stream_interrupted"
        await exiting
        answer = await other.chat.completions.create(**asked)
        if stream:
            again = []
            await read(answer, again)
            assert text_of(again) == "".join(DELTAS)
            assert text_of(again).startswith(text_of(chunks))
        else:
            assert answer.choices[0].message.content == "".join(DELTAS)
    assert len(await simulator.requests(key)) == 1
    assert stack.server.client.exists(keys.idempotency(key))


async def test_two_replicas_give_the_same_bytes(stack, connect, key):
    script = {
        "key": key,
        "deltas": DELTAS,
        "ttft": 0,
        "interval": 0.01,
        "fault": {"kind": "cut", "after": 5, "times": 1},
    }
    body = {"model": "m", "messages": MESSAGES, "simulator": script, "stream": True}
    headers = {"Idempotency-Key": key, "X-Piropiro-On-Worker-Loss": "continue"}
    received = []
    for replica in (*stack.apis, *stack.apis):
        answer = await connect(replica.url).http.post("/v1/chat/completions", json=body, headers=headers)
        received.append(answer.content)
    assert len(set(received)) == 1
    assert received[0].endswith(b"data: [DONE]\n\n")


async def test_over_an_upstream_that_can_go_on_a_workers_death_is_not_noticed(resuming, simulator, key):
    calls = [{"name": "f", "arguments": {"a": "".join(DELTAS)}}]
    asked = hanging(key)
    asked["extra_body"]["simulator"] |= {"tool_calls": calls}
    async with AsyncOpenAI(base_url=f"{resuming.apis[0].url}/v1", api_key="unused", max_retries=0) as sdk:
        chunks, error = await lose_worker_midway(resuming, sdk, asked)
    assert error is None
    assert text_of(chunks) == "".join(DELTAS)
    called = [call for chunk in chunks for call in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices]
    assert "".join(call.function.arguments for call in called) == '{"a":"%b"}'.replace("%b", "".join(DELTAS))
    assert len({chunk.id for chunk in chunks}) == 1
    assert not any("upstream" in name for chunk in chunks for name in chunk.model_extra or ())
    assert len(await simulator.responses(key)) == 1
