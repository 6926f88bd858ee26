"""`Idempotency-Key`: the same POST twice is one chat."""

import asyncio
import json
import signal

import httpx
import pytest
from harness.client import MESSAGES, body
from harness.polling import wait_until

POSTS = ("/v1/chat/stream", "/v1/chats")


@pytest.mark.parametrize("status", ["running", "done"])
async def test_a_repeated_post_streams_the_first_chat(api, other_api, simulator, key, status):
    posted = body({"key": key, "tokens": 30, "interval": 0.1})
    chat = await api.create(posted, idempotency_key=key)
    await api.chat_when(chat["id"], status)
    again = await other_api.ask(posted, idempotency_key=key)
    assert again.chat_id == chat["id"]
    assert again.received == (await api.read(chat["id"])).received
    assert len(await simulator.requests(key)) == 1


@pytest.mark.parametrize("form", ["text", "json"])
async def test_the_repeated_stream_may_have_another_format(api, key, form):
    posted = body({"deltas": ["a"]})
    first = await api.ask(posted, idempotency_key=key)
    again = await api.ask(posted, form=form, idempotency_key=key)
    assert again.received == (await api.read(first.chat_id, form=form)).received


async def test_a_key_is_the_same_for_both_posts(api, key):
    posted = body({"deltas": ["a"]})
    streamed = await api.ask(posted, idempotency_key=key)
    assert (await api.create(posted, idempotency_key=key))["id"] == streamed.chat_id


async def test_a_repeated_create_shows_the_chat_as_it_stands(api, key):
    posted = body({"deltas": ["a"]})
    first = await api.create(posted, idempotency_key=key)
    finished = await api.chat_when(first["id"], "done")
    assert await api.create(posted, idempotency_key=key) == finished


async def test_bodies_are_compared_parsed(api, key):
    posted = body({"deltas": ["a"]}, temperature=0.5)
    chat = await api.create(posted, idempotency_key=key)
    rearranged = json.dumps(dict(reversed(posted.items())), indent=3, ensure_ascii=True)
    again = await api.http.post("/v1/chats", content=rearranged, headers={"Idempotency-Key": key})
    assert again.json()["id"] == chat["id"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.6},
        {"extra": None},
        {"messages": [*MESSAGES, *MESSAGES]},
        {"temperature": "0.5"},
        {"model": "gpt-4o-mini"},
    ],
)
async def test_another_body_is_422(api, key, path, change):
    posted = body({"deltas": ["a"]}, temperature=0.5)
    await api.create(posted, idempotency_key=key)
    answer = await api.http.post(path, json=posted | change, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("paths", [POSTS, POSTS[:1] * 2, POSTS[1:] * 2], ids=["both", "streams", "creations"])
async def test_simultaneous_posts_generate_once(api, other_api, simulator, key, paths):
    posted = body({"key": key, "deltas": ["a"]})
    answers = await asyncio.gather(
        *(
            client.http.post(path, json=posted, headers={"Idempotency-Key": key})
            for client, path in zip([api, other_api] * 4, list(paths) * 4, strict=True)
        )
    )
    ids = {answer.headers.get("x-chat-id") or answer.json()["id"] for answer in answers}
    assert len(ids) == 1
    await api.chat_when(ids.pop(), "done")
    assert len(await simulator.requests(key)) == 1


async def test_posts_without_key_or_with_an_empty_one_are_chats_of_their_own(api):
    posted = body({"deltas": ["a"]})
    answers = [
        await api.create(posted),
        await api.create(posted),
        await api.create(posted, idempotency_key=""),
        await api.create(posted, idempotency_key=""),
    ]
    assert len({answer["id"] for answer in answers}) == 4


async def test_a_key_is_case_sensitive(api, key):
    posted = body({"deltas": ["a"]})
    upper = await api.create(posted, idempotency_key=f"K{key}")
    lower = await api.create(posted, idempotency_key=f"k{key}")
    assert upper["id"] != lower["id"]


@pytest.mark.parametrize("how", ["killed", "told to stop"])
async def test_a_post_repeated_through_a_dying_replica_generates_once(start_stack, connect, simulator, key, how):
    stack = start_stack(apis=2)
    doomed, other = (connect(api.url) for api in stack.apis)
    keys = [f"{key}-{number}" for number in range(40)]
    ids = dict[str, set[str]]()

    async def post(client, own):
        posted = body({"key": own, "deltas": ["a"], "interval": 0.01})
        path = POSTS[hash(own) % 2]
        answer = await client.http.post(path, json=posted, headers={"Idempotency-Key": own})
        if answer.is_success:
            ids.setdefault(own, set()).add(answer.headers.get("x-chat-id") or answer.json()["id"])
        return answer.status_code

    async def post_and_repeat(own):
        try:
            if await post(doomed, own) in (200, 202):
                return
        except httpx.TransportError:
            pass
        assert await post(other, own) in (200, 202)

    posting = [asyncio.create_task(post_and_repeat(own)) for own in keys]
    await wait_until(lambda: ids)
    if how == "killed":
        stack.apis[0].process.kill()
    else:
        stack.apis[0].process.signal(signal.SIGTERM)
    await asyncio.gather(*posting)
    assert [len(ids[own]) for own in keys] == [1] * len(keys)
    for own in keys:
        await other.chat_when(*ids[own], "done")
        assert len(await simulator.requests(own)) == 1
    assert len(list(stack.server.client.scan_iter("piropiro:{*}:log"))) == len(keys)
