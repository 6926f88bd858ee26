"""The stream of a chat that goes well: headers, events and their exact bytes in both formats."""

import json

import pytest
from harness.client import body
from harness.sse import decode_by_oracle, decoded, json_text_of, raw_of, text_of

GREETING = {"deltas": ["や", "っ", "ほ"]}


async def test_text_format_is_exact_to_the_byte(api):
    reading = await api.ask(body(GREETING))
    ids = [event.id for event in reading.events]
    assert reading.received.decode() == (
        f"id: {ids[0]}\ndata: や\n\n"
        f"id: {ids[1]}\ndata: っ\n\n"
        f"id: {ids[2]}\ndata: ほ\n\n"
        f"event: done\nid: {ids[3]}\ndata: [DONE]\n\n"
    )


async def test_json_format_tells_the_start_every_delta_and_the_end(api):
    reading = await api.ask(body(GREETING), form="json")
    usage = reading.events[-1].json.pop("usage")
    assert usage["completion_tokens"] == 3
    assert [(event.name, event.json) for event in reading.events if event.name != "queued"] == [
        ("started", {"attempt": 1, "model": "gpt-4o-mini"}),
        ("delta", {"role": "assistant", "content": ""}),
        ("delta", {"content": "や"}),
        ("delta", {"content": "っ"}),
        ("delta", {"content": "ほ"}),
        ("delta", {}),
        ("done", {"finish_reason": "stop", "usage": usage}),
    ]


async def test_json_events_have_one_line_each_for_name_id_and_data(api):
    reading = await api.ask(body(GREETING), form="json")
    for event in reading.events:
        if event.name != "queued":
            assert event.raw.decode() == f"event: {event.name}\nid: {event.id}\ndata: {event.data}\n\n"


async def test_text_is_the_default_format(api):
    created = await api.create(body(GREETING))
    default = await api.http.get(f"/v1/chats/{created['id']}/stream")
    assert default.content == (await api.read(created["id"], form="text")).received


async def test_response_headers_are_exact(api):
    async with api.posting(body(GREETING)) as reading:
        chat_id = reading.chat_id
        headers = reading.response.headers
        assert reading.status == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert headers["content-location"] == f"/v1/chats/{chat_id}/stream"
        assert "content-length" not in headers
    async with api.following(chat_id) as again:
        names = ("content-type", "cache-control", "x-accel-buffering", "x-chat-id", "content-location")
        assert {name: again.response.headers[name] for name in names} == {name: headers[name] for name in names}


async def test_headers_arrive_before_the_first_event(api):
    async with api.posting(body({"deltas": ["late"], "ttft": 30})) as reading:
        assert reading.status == 200
        await api.cancel(reading.chat_id)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_every_stored_event_has_an_id_of_its_chat(api, form):
    reading = await api.ask(body({"tokens": 20}), form=form)
    ids = [event.id for event in reading.events if event.name != "queued"]
    assert all(event_id.startswith(f"{reading.chat_id}:") for event_id in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_exactly_one_terminal_event_comes_last(api, form):
    reading = await api.ask(body({"tokens": 20}), form=form)
    assert [event.is_terminal for event in reading.events] == [False] * (len(reading.events) - 1) + [True]


@pytest.mark.parametrize("form", ["text", "json"])
async def test_an_independent_decoder_sees_the_same_events(api, form):
    reading = await api.ask(body({"deltas": [" a", "", "b\n\nc", "\r", ": d", "data: e"]}), form=form)
    assert decode_by_oracle(reading.received) == decoded(reading.events)


async def test_a_posted_stream_and_a_later_reading_are_the_same_bytes(api, other_api):
    posted = await api.ask(body({"tokens": 20}))
    assert (await other_api.read(posted.chat_id)).received == posted.received


async def test_the_usage_of_an_upstream_that_sends_none_is_null(api):
    chunks = [{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}]
    reading = await api.ask(body({"raw_chunks": chunks}), form="json")
    assert reading.events[-1].json == {"finish_reason": "length", "usage": None}


async def test_json_deltas_keep_fields_that_piropiro_does_not_know(api):
    deltas = [
        {"role": "assistant", "content": None},
        {"reasoning_content": "hm", "x_vendor": {"deep": [1, None, 2.5, 12345678901234567890123]}},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"content": ""},
        {},
    ]
    chunks = [{"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    reading = await api.ask(body({"raw_chunks": chunks}), form="json")
    assert [event.json for event in reading.events if event.name == "delta"] == [*deltas, {}]
    assert reading.events[-1].json["finish_reason"] == "tool_calls"


async def test_a_delta_without_text_has_no_event_in_text_format(api):
    script = {"tool_calls": [{"name": "f", "arguments": {"city": "京都"}}], "reasoning": "hm"}
    reading = await api.ask(body(script))
    assert [event.name for event in reading.events] == ["done"]


async def test_the_upstreams_line_ends_comments_and_fragments_do_not_show(api):
    script = {"text": "one\r\ntwo\u2028three 👩‍👩‍👧", "crlf": True, "comments": True, "fragment": 1}
    reading = await api.ask(body(script), form="json")
    assert json_text_of(reading.events) == script["text"]


async def test_each_format_has_the_same_text(api):
    posted = await api.ask(body({"text": "Hello, 世界!\n\nBye"}))
    in_json = await api.read(posted.chat_id, form="json")
    assert text_of(posted.events) == json_text_of(in_json.events) == "Hello, 世界!\n\nBye"
    assert json.loads((await api.http.get(f"/v1/chats/{posted.chat_id}")).text)["text"] == "Hello, 世界!\n\nBye"


async def test_the_parser_accounts_for_every_byte(api):
    reading = await api.ask(body({"tokens": 20}), form="json")
    assert raw_of(reading.events) == reading.received
