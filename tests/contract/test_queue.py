"""A chat that no worker has taken yet: its place in the queue, the queue's limit and its time-out."""

import asyncio

import pytest
from harness.client import body

CHAT = body({"deltas": ["a"]})


@pytest.fixture(scope="module")
def waiting_room(start_module_stack):
    """A replica without workers."""
    return start_module_stack(workers=0, max_queue=3, keepalive=0.2)


@pytest.fixture
def api(waiting_room, connect):
    return connect(waiting_room.apis[0].url)


async def test_a_json_reader_is_told_its_place_and_when_it_moves_up(api):
    first = await api.create(CHAT)
    async with api.posting(CHAT, form="json") as reading:
        place = (await reading.first(1))[0]
        assert place.raw.decode() == f"event: queued\ndata: {place.data}\n\n"
        assert place.json == {"position": 2}
        await api.cancel(first["id"])
        assert (await reading.first(2))[1].json == {"position": 1}
        await api.cancel(reading.chat_id)
        assert (await reading.rest()).events[-1].name == "cancelled"


async def test_queued_is_not_stored(api):
    async with api.posting(CHAT, form="json") as reading:
        await reading.first(1)
        await api.cancel(reading.chat_id)
    again = await api.read(reading.chat_id, form="json")
    assert [event.name for event in again.events] == ["cancelled"]


async def test_a_text_reader_hears_only_keep_alives(api):
    async with api.posting(CHAT) as reading:
        await reading.until(lambda reading: len(reading.comments) >= 3)
        assert reading.received == b": keep-alive\n" * len(reading.comments)
        await api.cancel(reading.chat_id)


async def test_a_queued_chat_as_json(api):
    chat = await api.create(CHAT)
    assert chat == {
        "id": chat["id"],
        "status": "queued",
        "model": "gpt-4o-mini",
        "created_at": chat["created_at"],
        "started_at": None,
        "finished_at": None,
        "attempts": 0,
        "text": "",
        "finish_reason": None,
        "usage": None,
        "error": None,
        "cursor": chat["cursor"],
    }
    cancelled = await api.cancel(chat["id"])
    assert (cancelled["status"], cancelled["attempts"], cancelled["started_at"]) == ("cancelled", 0, None)


async def test_a_full_queue_is_429_but_not_for_a_known_idempotency_key(api, key):
    chats = [await api.create(CHAT, idempotency_key=key), await api.create(CHAT), await api.create(CHAT)]
    for path in ("/v1/chats", "/v1/chat/stream"):
        refused = await api.http.post(path, json=CHAT)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"].keys() == {"message", "type", "param", "code"}
    assert (await api.create(CHAT, idempotency_key=key))["id"] == chats[0]["id"]
    async with api.posting(CHAT, idempotency_key=key) as reading:
        assert reading.chat_id == chats[0]["id"]
    reused = await api.http.post("/v1/chats", json=body(), headers={"Idempotency-Key": key})
    assert reused.status_code == 422
    await asyncio.gather(*(api.cancel(chat["id"]) for chat in chats))
    await api.cancel((await api.create(CHAT))["id"])


async def test_readyz_is_503_without_a_worker(api):
    answer = await api.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert (await api.http.get("/healthz")).status_code == 200


async def test_a_chat_that_nobody_takes_ends_in_an_error(start_stack, connect):
    stack = start_stack(workers=0, queue_timeout=0.5)
    api = connect(stack.apis[0].url)
    reading = await api.ask(CHAT)
    assert [event.name for event in reading.events] == ["error"]
    assert reading.events[0].json["error"]["code"] == "queue_timeout"
    assert (await api.chat(reading.chat_id))["status"] == "failed"
    await api.create(CHAT)
