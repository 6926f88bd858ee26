"""Cursors: `Last-Event-ID` and `?after=`, on GET and on a repeated POST, and what is wrong with a wrong one."""

import pytest
import pytest_asyncio
from harness.client import body, numbered
from harness.sse import raw_of


@pytest_asyncio.fixture
async def ended(api):
    """A reading of a chat that has ended."""
    return await api.ask(body({"deltas": numbered(6)}))


def resumed(reading, position):
    """What a client still lacks that has the event at `position`."""
    return raw_of(reading.events[position + 1 :])


async def test_the_header_resumes_after_its_event(other_api, ended):
    cursor = ended.events[2].id
    again = await other_api.http.get(f"/v1/chats/{ended.chat_id}/stream", headers={"Last-Event-ID": cursor})
    assert again.content == resumed(ended, 2)


async def test_the_parameter_resumes_after_its_event(other_api, ended):
    cursor = ended.events[2].id
    again = await other_api.http.get(f"/v1/chats/{ended.chat_id}/stream", params={"after": cursor})
    assert again.content == resumed(ended, 2)


async def test_the_header_wins_over_the_parameter(api, ended):
    options = {"headers": {"Last-Event-ID": ended.events[2].id}, "params": {"after": ended.events[0].id}}
    got = await api.http.get(f"/v1/chats/{ended.chat_id}/stream", **options)
    posted = await api.http.post("/v1/chat/stream", **options)
    assert got.content == posted.content == resumed(ended, 2)


async def test_an_empty_header_is_an_absent_one(api, ended):
    empty = {"Last-Event-ID": ""}
    path = f"/v1/chats/{ended.chat_id}/stream"
    assert (await api.http.get(path, headers=empty)).content == ended.received
    after = await api.http.get(path, headers=empty, params={"after": ended.events[2].id})
    assert after.content == resumed(ended, 2)


async def test_a_post_with_an_empty_header_creates_a_chat(api, ended):
    posted = await api.ask(body({"deltas": ["new"]}), last_event_id="")
    assert posted.chat_id != ended.chat_id
    assert posted.events[0].data == "new"


@pytest.mark.parametrize("content", [b"", b"{", b'{"messages": [{"role": "user", "content": "another"}]}', b"\xff"])
async def test_a_post_with_a_cursor_resumes_whatever_its_body(other_api, ended, content):
    answer = await other_api.http.post(
        "/v1/chat/stream", content=content, headers={"Last-Event-ID": ended.events[2].id}
    )
    assert answer.status_code == 200
    assert answer.content == resumed(ended, 2)
    assert answer.headers["x-chat-id"] == ended.chat_id


async def test_a_post_with_a_cursor_generates_nothing_new(api, simulator, key):
    posted = body({"key": key, "deltas": numbered(6)})
    first = await api.ask(posted)
    again = await api.ask(posted, last_event_id=first.events[2].id)
    assert again.received == resumed(first, 2)
    assert len(await simulator.requests(key)) == 1


async def test_a_cursor_wins_over_an_idempotency_key(api, ended, key):
    other = body({"deltas": ["other"]})
    await api.ask(other, idempotency_key=key)
    again = await api.ask(other, idempotency_key=key, last_event_id=ended.events[2].id)
    assert again.received == resumed(ended, 2)


async def test_a_post_with_a_cursor_follows_a_running_chat(api, other_api):
    posted = body({"deltas": numbered(20), "interval": 0.1})
    async with api.posting(posted) as reading:
        cursor = (await reading.first(3))[2].id
        again = await other_api.ask(posted, last_event_id=cursor)
        assert again.received == raw_of((await reading.rest()).events[3:])


async def test_the_end_as_cursor_is_204(api, ended):
    end = ended.events[-1].id
    got = await api.http.get(f"/v1/chats/{ended.chat_id}/stream", headers={"Last-Event-ID": end})
    posted = await api.http.post("/v1/chat/stream", json=body(), headers={"Last-Event-ID": end})
    assert (got.status_code, got.content) == (posted.status_code, posted.content) == (204, b"")


async def test_a_cursor_of_one_format_is_good_in_the_other(api, ended):
    in_json = await api.read(ended.chat_id, form="json")
    by_id = {event.id: position for position, event in enumerate(in_json.events)}
    cursor = ended.events[2].id
    assert (await api.read(ended.chat_id, form="json", cursor=cursor)).received == resumed(in_json, by_id[cursor])
    started = in_json.events[0].id
    assert (await api.read(ended.chat_id, cursor=started)).received == ended.received


async def test_the_cursor_of_a_chats_json_continues_its_text(api):
    async with api.posting(body({"deltas": numbered(30), "interval": 0.1})) as reading:
        await reading.first(5)
        chat = await api.chat(reading.chat_id)
    rest = await api.read(chat["id"], cursor=chat["cursor"])
    assert chat["status"] == "running"
    assert chat["text"] + "".join(event.data for event in rest.events[:-1]) == "".join(numbered(30))


@pytest.mark.parametrize(
    "cursor",
    [
        "nonsense",
        "{id}",
        "{id}:",
        "{id}:1",
        "{id}:1-",
        "{id}:-1-1",
        "{id}:01-1",
        "{id}:1-1 2",
        "{id}:1-1-1",
        "{id}:a-b",
        "{id}:99999999999999999999-1",
        ":1-1",
        "1-1",
    ],
)
async def test_a_malformed_cursor_is_400(api, ended, cursor):
    cursor = cursor.format(id=ended.chat_id)
    path = f"/v1/chats/{ended.chat_id}/stream"
    for answer in (
        await api.http.get(path, headers={"Last-Event-ID": cursor}),
        await api.http.get(path, params={"after": cursor}),
        await api.http.post("/v1/chat/stream", json=body(), headers={"Last-Event-ID": cursor}),
    ):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in ("Last-Event-ID", "after")


async def test_another_chats_cursor_is_400(api, ended):
    other = await api.ask(body({"deltas": ["a"]}))
    answer = await api.http.get(f"/v1/chats/{ended.chat_id}/stream", headers={"Last-Event-ID": other.events[0].id})
    assert answer.status_code == 400


@pytest.mark.parametrize("position", ["1-9999", "2-0", "2-1", "0-7", "18446744073709551615-0"])
async def test_a_cursor_that_names_no_entry_is_410(api, ended, position):
    cursor = {"Last-Event-ID": f"{ended.chat_id}:{position}"}
    got = await api.http.get(f"/v1/chats/{ended.chat_id}/stream", headers=cursor)
    posted = await api.http.post("/v1/chat/stream", json=body(), headers=cursor)
    for answer in (got, posted):
        assert answer.status_code == 410
        assert answer.json()["error"]["code"] == "cursor_lost"
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_the_end_of_a_running_chat_is_no_entry_yet(api, ended):
    chat = await api.create(body({"deltas": ["a"], "ttft": 30}))
    cursor = ended.events[-1].id.replace(ended.chat_id, chat["id"])
    answer = await api.http.get(f"/v1/chats/{chat['id']}/stream", headers={"Last-Event-ID": cursor})
    assert answer.status_code == 410
    await api.cancel(chat["id"])


async def test_a_cursor_of_an_unknown_chat_is_404(api):
    cursor = {"Last-Event-ID": "chat_aaaaaaaaaaaaaaaaaaaa:1-1"}
    assert (await api.http.post("/v1/chat/stream", json=body(), headers=cursor)).status_code == 404
    answer = await api.http.get("/v1/chats/chat_aaaaaaaaaaaaaaaaaaaa/stream", headers=cursor)
    assert answer.status_code == 404
