"""A chat as JSON: its creation, its fields in every state, and its cancellation."""

import asyncio
import time

import pytest
from harness.client import body, numbered
from harness.sse import decode_by_oracle, decoded

FIELDS = {
    "id",
    "status",
    "model",
    "created_at",
    "started_at",
    "finished_at",
    "attempts",
    "text",
    "finish_reason",
    "usage",
    "error",
    "cursor",
}
LONG = {"deltas": numbered(1000), "interval": 0.02}


def without(chat, *names):
    return {name: value for name, value in chat.items() if name not in names}


async def test_creating_is_202_with_the_chat_and_its_location(api):
    answer = await api.http.post("/v1/chats", json=body({"deltas": ["a"]}))
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/chats/{answer.json()['id']}"
    assert answer.json().keys() == FIELDS
    assert (await api.http.get(answer.headers["location"])).json()["id"] == answer.json()["id"]


async def test_a_running_chat_shows_its_text_so_far(api):
    async with api.posting(body(LONG)) as reading:
        await reading.first(3)
        chat = await api.chat(reading.chat_id)
    assert without(chat, "created_at", "started_at", "text", "cursor") == {
        "id": reading.chat_id,
        "status": "running",
        "model": "gpt-4o-mini",
        "finished_at": None,
        "attempts": 1,
        "finish_reason": None,
        "usage": None,
        "error": None,
    }
    assert "".join(numbered(1000)).startswith(chat["text"])
    assert chat["text"].startswith("0 1 2 ")
    assert time.time() - 30 < chat["created_at"] <= chat["started_at"] <= time.time() + 1
    await api.cancel(reading.chat_id)


async def test_a_done_chat_shows_text_reason_and_usage(api):
    reading = await api.ask(body({"deltas": ["a", "b"]}))
    chat = await api.chat(reading.chat_id)
    assert chat.keys() == FIELDS
    assert (chat["status"], chat["text"], chat["finish_reason"], chat["error"]) == ("done", "ab", "stop", None)
    assert chat["usage"]["completion_tokens"] == 2
    assert chat["created_at"] <= chat["started_at"] <= chat["finished_at"]
    assert chat["cursor"] == reading.events[-1].id


async def test_a_failed_chat_shows_its_error(api):
    fault = {"kind": "status", "status": 400, "message": "no such thing", "code": "nothing"}
    reading = await api.ask(body({"fault": fault}))
    chat = await api.chat(reading.chat_id)
    assert (chat["status"], chat["finish_reason"], chat["usage"]) == ("failed", None, None)
    assert chat["error"] == reading.events[-1].json["error"]
    assert chat["error"].keys() == {"message", "type", "param", "code"}
    assert (chat["error"]["message"], chat["error"]["code"]) == ("no such thing", "nothing")


@pytest.mark.parametrize("form", ["text", "json"])
async def test_an_error_has_the_same_data_in_both_formats(api, form):
    reading = await api.ask(body({"fault": {"kind": "status", "status": 400, "message": "a\nb"}}), form=form)
    last = reading.events[-1]
    assert last.name == "error"
    assert last.json.keys() == {"error"}
    assert last.json["error"]["message"] == "a\nb"
    assert last.raw.decode() == f"event: error\nid: {last.id}\ndata: {last.data}\n\n"


async def test_cancel_ends_the_chat_and_every_stream_of_it(api, other_api):
    async with api.posting(body(LONG)) as text, other_api.following(text.chat_id, form="json") as in_json:
        await text.first(2)
        chat = await other_api.cancel(text.chat_id)
        assert chat["status"] == "cancelled"
        last = (await text.rest()).events[-1]
        assert last.raw.decode() == f"event: cancelled\nid: {last.id}\ndata: [CANCELLED]\n\n"
        last = (await in_json.rest()).events[-1]
        assert last.raw.decode() == f"event: cancelled\nid: {last.id}\ndata: {{}}\n\n"
    assert chat["text"] == "".join(event.data for event in text.events[:-1])
    assert chat["finish_reason"] is None
    assert chat["finished_at"] >= chat["started_at"]
    assert chat["cursor"] == last.id


async def test_a_cancelled_stream_decodes_independently(api):
    chat = await api.create(body(LONG))
    await api.cancel(chat["id"])
    reading = await api.read(chat["id"])
    assert decode_by_oracle(reading.received) == decoded(reading.events)
    assert [event.name for event in reading.events if event.is_terminal] == ["cancelled"]


async def test_cancel_is_idempotent(api, other_api):
    chat = await api.create(body(LONG))
    first, second = await asyncio.gather(api.cancel(chat["id"]), other_api.cancel(chat["id"]))
    assert first == second == await api.cancel(chat["id"]) == await api.chat(chat["id"])


@pytest.mark.parametrize(
    ("script", "status"), [({"deltas": ["a"]}, "done"), ({"fault": {"kind": "status", "status": 400}}, "failed")]
)
async def test_cancel_changes_nothing_after_the_end(api, script, status):
    reading = await api.ask(body(script))
    chat = await api.chat(reading.chat_id)
    assert chat["status"] == status
    assert await api.cancel(reading.chat_id) == chat
    assert (await api.read(reading.chat_id)).received == reading.received


async def test_cancel_closes_the_upstreams_connection(api, simulator, key):
    async with api.posting(body({"key": key, **LONG})) as reading:
        await reading.first(1)
        await api.cancel(reading.chat_id)
        assert await simulator.outcome(key, within=2) == "client_closed"


async def test_cancel_closes_the_connection_of_an_upstream_that_is_silent(api, simulator, key):
    chat = await api.create(body({"key": key, "fault": {"kind": "stall", "after": 1}, "deltas": ["a", "b"]}))
    await api.chat_when(chat["id"], "running")
    async with api.following(chat["id"]) as reading:
        await reading.first(1)
    await api.cancel(chat["id"])
    assert await simulator.outcome(key, within=2) == "client_closed"


async def test_nothing_is_appended_after_a_cancellation(api, other_api):
    async with api.posting(body({"deltas": numbered(1000), "interval": 0.001})) as reading:
        await reading.first(5)
        await api.cancel(reading.chat_id)
        await reading.rest()
    assert (await other_api.read(reading.chat_id)).received == reading.received
