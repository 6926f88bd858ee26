"""Responses under cuts, drains and the loss of workers: OpenAI's own client resumes them on any replica, exactly."""

import asyncio
import json
from contextlib import suppress
from itertools import cycle

import openai
import pytest
from harness.client import numbered
from harness.openai_client import scripted
from harness.polling import wait_until

LEASE = 1.0
DELTAS = numbered(30)
CALL = {"name": "f", "arguments": {"a": "b"}}
SCRIPT = {"deltas": numbered(8), "reasoning": "Let me think.", "tool_calls": [CALL, CALL]}


def asking(script, **fields):
    defaults = {"model": "any", "input": "hi", "background": True, "stream": True, "extra_body": scripted(script)}
    return {**defaults, **fields}


def hanging(key, **fields):
    """A response whose first request to the upstream hangs after five deltas."""
    return asking({"key": key, "deltas": DELTAS, "fault": {"kind": "stall", "after": 5, "times": 1}}, **fields)


def losing(**headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def take(stream, count=None, until=None):
    """The stream's next events as JSON: so many, or up to one of that type, or all."""
    events = []
    async for event in stream:
        events.append(event.to_dict())
        if len(events) == count or event.type == until:
            break
    return events


async def take_deltas(stream, count):
    events = []
    async for event in stream:
        events.append(event.to_dict())
        count -= event.type == "response.output_text.delta"
        if not count:
            break
    return events


async def take_until_cut(stream):
    """The rest of a stream that the server breaks off, in a way that the client notices."""
    events = []
    try:
        async for event in stream:
            events.append(event.to_dict())  # noqa: PERF401  # what came before the cut is kept
    except openai.APIConnectionError:
        return events
    raise AssertionError("the stream ended as if it were complete")


async def whole(client, response_id):
    return await take(await client.responses.retrieve(response_id, stream=True))


def text_of(events):
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def types(events):
    return [event["type"] for event in events]


async def test_a_live_cut_at_each_event_loses_nothing_on_another_replica(openai_client, other_openai_client):
    reference = await take(await openai_client.responses.create(**asking(SCRIPT)))
    clients = cycle([(openai_client, other_openai_client), (other_openai_client, openai_client)])

    async def check(position):
        first, second = next(clients)
        stream = await first.responses.create(**asking({**SCRIPT, "interval": 0.01}))
        events = await take(stream, position)
        await stream.close()
        response_id, last = events[0]["response"]["id"], events[-1]["sequence_number"]
        rest = await second.responses.retrieve(response_id, stream=True, starting_after=last)
        events += await take(rest)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events == await whole(first, response_id) == await whole(second, response_id)
        assert types(events) == types(reference)

    await asyncio.gather(*(check(position) for position in range(1, len(reference))))


async def test_resumes_after_every_event_on_alternating_replicas_give_the_same_events(
    openai_client, other_openai_client
):
    clients = cycle([other_openai_client, openai_client])
    stream = await openai_client.responses.create(**asking({**SCRIPT, "interval": 0.03}))
    events = await take(stream, 1)
    await stream.close()
    response_id = events[0]["response"]["id"]
    while events[-1]["type"] != "response.completed":
        after = events[-1]["sequence_number"]
        stream = await next(clients).responses.retrieve(response_id, stream=True, starting_after=after)
        events += await take(stream, 1)
        await stream.close()
    assert events == await whole(openai_client, response_id)


async def test_replicas_send_the_same_bytes(api, other_api):
    body = {"input": "hi", "background": True, "stream": True, **scripted(SCRIPT)}
    async with api.open("POST", "/v1/responses", json=body) as posted:
        await posted.rest()
    path = f"/v1/responses/{posted.chat_id.replace('chat_', 'resp_')}"
    for client in (api, other_api):
        async with client.open("GET", path, params={"stream": "true"}) as again:
            assert (await again.rest()).received == posted.received


async def test_a_drained_replica_cuts_its_streams_and_another_has_the_rest(start_stack, connect_openai):
    stack = start_stack(apis=2)
    leaving, other = (connect_openai(api.url) for api in stack.apis)
    stream = await leaving.responses.create(**asking({"deltas": numbered(100), "interval": 0.05}))
    events = await take_deltas(stream, 5)
    exiting = asyncio.create_task(stack.apis[0].process.terminate(within=5))
    events += await take_until_cut(stream)
    assert await exiting in (0, -15)
    response_id, last = events[0]["response"]["id"], events[-1]["sequence_number"]
    events += await take(await other.responses.retrieve(response_id, stream=True, starting_after=last))
    assert events == await whole(other, response_id)
    assert text_of(events) == "".join(numbered(100))


async def test_a_drained_replica_tells_who_waits_for_the_whole_to_ask_again(start_stack, connect_openai):
    stack = start_stack(apis=2)
    leaving, other = (connect_openai(api.url) for api in stack.apis)
    options = asking({"deltas": numbered(100), "interval": 0.05}, background=False, stream=False)
    options["extra_headers"] = {"Idempotency-Key": "once"}
    waiting = asyncio.create_task(leaving.responses.create(**options))
    again = asyncio.create_task(other.responses.create(**options))

    async def runs():
        return stack.server.client.hlen("piropiro:running") == 1

    await wait_until(runs)
    exiting = asyncio.create_task(stack.apis[0].process.terminate(within=5))
    with pytest.raises((openai.InternalServerError, openai.APIConnectionError)):
        await waiting
    assert await exiting in (0, -15)
    assert (await again).output_text == "".join(numbered(100))


@pytest.fixture(scope="module")
def relay_stack(start_module_stack):
    return start_module_stack(apis=2, lease=LEASE, drain=5)


@pytest.fixture
def relay(relay_stack, connect_openai):
    """Two clients of a stack with one worker."""
    relay_stack.wait_until_ready(workers=1)
    return [connect_openai(api.url) for api in relay_stack.apis]


def replace_worker(stack):
    (doomed,) = stack.workers
    stack.kill_worker(doomed)
    stack.start_worker()


async def test_a_restart_ends_live_streams_and_whoever_comes_then_sees_the_last_epoch(relay_stack, relay, key):
    first, second = relay
    stream = await first.responses.create(**hanging(key))
    events = await take_deltas(stream, 5)
    replace_worker(relay_stack)
    events += await take(stream)
    response_id = events[0]["response"]["id"]
    assert types(events)[-1] == "error"
    assert events[-1]["code"] == "generation_restarted"
    assert text_of(events) == "".join(DELTAS[:5])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))

    # Anew: the last epoch, numbered on, on every replica.
    last = await whole(second, response_id)
    assert last[0]["type"] == "response.created"
    assert last[0]["sequence_number"] == len(events)
    assert text_of(last) == "".join(DELTAS)
    assert last == await whole(first, response_id)

    # In the middle of what is void: up to the error. After the error: what the new epoch says.
    resumed = await second.responses.retrieve(response_id, stream=True, starting_after=4)
    assert await take(resumed) == events[5:]
    resumed = await second.responses.retrieve(response_id, stream=True, starting_after=len(events) - 1)
    assert await take(resumed) == last

    async with second.responses.stream(response_id=response_id) as helper:
        assert (await helper.get_final_response()).output_text == "".join(DELTAS)
    response = await second.responses.retrieve(response_id)
    assert response.to_dict() | {"completed_at": None} == last[-1]["response"]


async def test_continuing_after_a_lost_worker_is_seamless(relay_stack, relay, key):
    headers = losing(x_piropiro_on_worker_loss="continue")
    stream = await relay[0].responses.create(**hanging(key, extra_headers=headers))
    events = await take_deltas(stream, 5)
    replace_worker(relay_stack)
    events += await take(stream)
    assert text_of(events) == "".join(DELTAS)
    assert types(events)[-1] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(DELTAS)
    assert events == await whole(relay[1], events[0]["response"]["id"])


async def test_a_lost_worker_fails_the_response_where_that_was_chosen(relay_stack, relay, key):
    headers = losing(x_piropiro_on_worker_loss="fail")
    stream = await relay[0].responses.create(**hanging(key, extra_headers=headers))
    events = await take_deltas(stream, 5)
    replace_worker(relay_stack)
    events += await take(stream)
    assert types(events)[-1] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"


async def test_a_response_in_one_piece_is_not_bothered_by_a_restart(relay_stack, relay, simulator, key):
    waiting = asyncio.create_task(relay[0].responses.create(**hanging(key, background=False, stream=False)))

    async def is_under_way():
        return any(record["deltas_sent"] >= 5 for record in await simulator.requests(key))

    await wait_until(is_under_way)
    replace_worker(relay_stack)
    assert (await waiting).output_text == "".join(DELTAS)


async def test_a_stream_whose_last_reader_left_is_cancelled_where_that_was_chosen(openai_client, simulator, key):
    headers = losing(x_piropiro_on_disconnect="cancel")
    script = {"deltas": numbered(1000), "interval": 0.05, "key": key}
    stream = await openai_client.responses.create(**asking(script, extra_headers=headers))
    events = await take_deltas(stream, 3)
    await stream.close()
    response_id = events[0]["response"]["id"]

    async def is_cancelled():
        return (await openai_client.responses.retrieve(response_id)).status == "cancelled"

    await wait_until(is_cancelled, 20)
    assert await simulator.outcome(key) == "client_closed"


async def test_who_waits_for_the_whole_and_leaves_cancels_where_that_was_chosen(openai_client, simulator, key):
    headers = losing(x_piropiro_on_disconnect="cancel")
    script = {"deltas": numbered(1000), "interval": 0.05, "key": key}
    options = asking(script, background=False, stream=False, extra_headers=headers)
    waiting = asyncio.create_task(openai_client.responses.create(**options))

    async def is_under_way():
        return await simulator.running(key)

    await wait_until(is_under_way)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert await simulator.outcome(key, within=20) == "client_closed"


async def test_what_is_not_stored_is_kept_for_a_minute_after_its_end(stack, openai_client):
    options = asking({"text": "a"}, background=False, stream=False, store=False)
    response = await openai_client.responses.create(**options)
    chat_id = response.id.replace("resp_", "chat_")
    for kind in ("chat", "log"):
        assert 0 < stack.server.client.pttl(f"piropiro:{{{chat_id}}}:{kind}") <= 60_000
    assert json.loads(stack.server.client.hget(f"piropiro:{{{chat_id}}}:chat", "origin"))["echo"]["store"] is False
