"""A failover to a replica, by real sentinels: what it keeps, what is healed, and how a loss is told."""

import asyncio
import contextlib
import time

import pytest
from harness.client import MESSAGES, body, numbered
from harness.polling import wait_until
from harness.redis_server import sentinels_of
from harness.sse import raw_of, text_of
from harness.upstream import changing_upstream

DELTAS = numbered(200)
SLOW = body({"deltas": DELTAS, "interval": 0.05})
WITHIN = 4.0  # as in test_redis_outage.py


@pytest.fixture
def stack(start_stack):
    return start_stack(apis=0, workers=0, lease=2)


@pytest.fixture
def sentinels(stack, tmp_path):
    with sentinels_of(stack.server, tmp_path) as sentinels:
        stack.set_environment(REDIS_URL=sentinels.url)
        yield sentinels


def start(stack, connect, *, apis=1, workers=2):
    """Start the processes; a client of the first replica."""
    stack.start(apis=apis, workers=workers)
    return connect(stack.apis[0].url)


async def assert_whole(api, reading, form="text"):
    """The reader has all of the log, each event once, and it took one attempt."""
    assert reading.events[-1].name == "done"
    kept = raw_of(event for event in reading.events if event.id)
    assert kept == (await api.read(reading.chat_id, form=form)).received
    chat = await api.chat(reading.chat_id)
    assert (chat["text"], chat["attempts"]) == ("".join(DELTAS), 1)


async def refuse_until(event, api):
    """Until then, a POST is answered in time: accepted, or 503."""
    statuses = set()
    while not event.is_set():
        asked = time.monotonic()
        answer = await api.http.post("/v1/chats", json=body({"deltas": ["a"]}))
        assert time.monotonic() - asked < WITHIN
        statuses.add(answer.status_code)
    return statuses


async def cursor_status(api, chat_id, cursor):
    """How a reader is answered that comes back with this cursor."""
    return (await api.http.get(f"/v1/chats/{chat_id}/stream", params={"after": cursor})).status_code


@pytest.mark.parametrize("form", ["text", "json"])
async def test_running_streams_go_on_after_a_failover(stack, sentinels, connect, form):
    api = start(stack, connect)
    promoted = asyncio.Event()
    async with api.posting(SLOW, form=form) as reading:
        await reading.first(20)
        await wait_until(lambda: sentinels.is_linked)
        posting = asyncio.create_task(refuse_until(promoted, api))
        await sentinels.fail_over()
        promoted.set()
        await reading.rest()
    assert 503 in await posting <= {202, 503}
    await assert_whole(api, reading, form)
    assert all(process.exit_status is None for process in stack.processes[1:])
    assert (await api.ask(body({"deltas": ["a"]}))).events[-1].name == "done"


async def test_what_a_master_took_that_had_hung_too_long_is_healed_or_told(stack, sentinels, connect):
    """It wakes up as a second master, and takes what its connections bring until the sentinels find it."""
    api = start(stack, connect)
    async with api.posting(body({"deltas": numbered(5000), "interval": 0.03})) as reading:
        await reading.first(20)
        await sentinels.hang_over()
        beyond = sentinels.server.client.xlen(f"piropiro:{{{reading.chat_id}}}:log") + 200
        with contextlib.suppress(StopAsyncIteration):
            await reading.first(beyond)
            await api.cancel(reading.chat_id)
            await reading.rest()
    again = await read_after_cancel(api, reading.chat_id)
    assert reading.ends_between_events
    if reading.events[-1].is_terminal:
        assert raw_of(reading.events) == again.received
    else:
        assert await cursor_status(api, reading.chat_id, reading.events[-1].id) == 410
        assert again.events[-1].name == "cancelled"
    assert (await api.ask(body({"deltas": ["a"]}))).events[-1].name == "done"


async def read_after_cancel(api, chat_id):
    await api.cancel(chat_id)
    return await api.read(chat_id)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_forgotten_entries_are_appended_anew_by_their_writer(stack, sentinels, connect, form):
    api = start(stack, connect)
    async with api.posting(SLOW, form=form) as reading:
        await reading.first(20)
        await sentinels.cut_replication()
        await reading.first(50)
        await sentinels.fail_over()
        await reading.rest()
    await assert_whole(api, reading, form)


async def test_forgotten_entries_whose_writer_is_dead_are_told(stack, sentinels, connect):
    api = start(stack, connect, workers=1)
    async with api.posting(SLOW) as reading:
        await reading.first(20)
        await sentinels.cut_replication()
        await reading.first(50)
        stack.kill_worker(stack.workers[0])
        await sentinels.fail_over()
        await reading.rest()
    assert reading.ends_between_events
    assert not any(event.is_terminal or event.name == "restart" for event in reading.events)
    assert await cursor_status(api, reading.chat_id, reading.events[-1].id) == 410
    stack.start_worker()
    again = await api.read(reading.chat_id)
    assert [event.name for event in again.events if event.name] == ["restart", "done"]
    assert text_of(again.events) == "".join(DELTAS)


async def test_a_forgotten_chat_is_unknown_and_its_key_free_again(stack, sentinels, connect, key):
    api = start(stack, connect)
    await sentinels.cut_replication()
    async with api.posting(SLOW, idempotency_key=key) as reading:
        await reading.first(20)
        await sentinels.fail_over()
        await reading.rest()
    assert not any(event.is_terminal for event in reading.events)
    assert await cursor_status(api, reading.chat_id, reading.events[-1].id) == 404
    assert (await api.http.get(f"/v1/chats/{reading.chat_id}")).status_code == 404
    again = await api.create(SLOW, idempotency_key=key)
    assert again["id"] != reading.chat_id


@pytest.mark.parametrize("ending", ["done", "cancelled"])
async def test_a_chat_whose_end_was_forgotten_runs_and_ends_again(stack, sentinels, connect, ending):
    api = start(stack, connect)
    async with api.posting(body({"deltas": DELTAS[:60], "interval": 0.03})) as reading:
        await reading.first(20)
        await sentinels.cut_replication()
        if ending == "cancelled":
            await api.cancel(reading.chat_id)
        await reading.rest()
    assert reading.events[-1].name == ending
    await sentinels.fail_over()
    assert (await api.chat(reading.chat_id))["status"] in ("queued", "running")
    again = await api.read(reading.chat_id)
    assert [event.name for event in again.events if event.name] == ["restart", "done"]
    assert text_of(again.events) == "".join(DELTAS[:60])


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_forgotten_claim_never_mixes_two_answers(stack, sentinels, connect, workers):
    async with changing_upstream(words=200, interval=0.03) as upstream:
        stack.set_environment(OPENAI_BASE_URL=upstream)
        api = start(stack, connect, workers=0)
        async with api.posting({"messages": MESSAGES}) as reading:
            assert reading.status == 200
            await sentinels.cut_replication()
            for _ in range(workers):
                stack.start_worker()
            await reading.first(30)
            await sentinels.fail_over()
            await reading.rest()
        assert len(set(text_of(reading.events).split())) == 1
        assert (await api.chat_when(reading.chat_id, "done", within=20))["attempts"] >= 1
