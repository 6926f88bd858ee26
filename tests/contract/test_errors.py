"""Every refusal has its status, and OpenAI's envelope."""

import json

import httpx
import pytest
from harness.client import MESSAGES, body

NATIVE_POSTS = ("/v1/chat/stream", "/v1/chats")
POSTS = (*NATIVE_POSTS, "/v1/chat/completions")
USER = MESSAGES[0]


def assert_refused(answer: httpx.Response, status: int, **fields: str | None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    envelope = answer.json()
    assert envelope.keys() == {"error"}
    error = envelope["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert {name: error[name] for name in fields} == fields


NO_JSON = {
    "nothing": b"",
    "half an object": b'{"messages": [',
    "something after the end": json.dumps(body()).encode() + b"}",
    "single quotes": b"{'messages': []}",
    "invalid UTF-8": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "half a character": '{"messages": [{"role": "user", "content": "や"}]}'.encode()[:-6] + b'"}]}',
    "UTF-16": '{"messages": []}'.encode("utf-16"),
    "NaN": b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    "Infinity": b'{"messages": [{"role": "user", "content": "a"}], "temperature": Infinity}',
    "a number beyond all": b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    "deep arrays": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"messages": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "an array": b"[]",
    "a string": b'"messages"',
    "null": b"null",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON.keys())
async def test_a_body_that_is_no_json_object_is_refused(api, path, content):
    assert_refused(await api.http.post(path, content=content), 400)


INVALID = {
    "no messages": ({}, "messages"),
    "null messages": ({"messages": None}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "messages as text": ({"messages": "hi"}, "messages"),
    "messages as an object": ({"messages": {"0": USER}}, "messages"),
    "a message as text": ({"messages": [USER, "hi"]}, "messages[1]"),
    "a message as null": ({"messages": [None]}, "messages[0]"),
    "a message without role": ({"messages": [{"content": "a"}]}, "messages[0].role"),
    "a role as a number": ({"messages": [{"role": 1, "content": "a"}]}, "messages[0].role"),
    "n of 0": ({"messages": MESSAGES, "n": 0}, "n"),
    "n as true": ({"messages": MESSAGES, "n": True}, "n"),
    "n as text": ({"messages": MESSAGES, "n": "1"}, "n"),
    "a model as a number": ({"messages": MESSAGES, "model": 4}, "model"),
    "a model as a list": ({"messages": MESSAGES, "model": ["gpt-4o"]}, "model"),
    "stream options as text": ({"messages": MESSAGES, "stream_options": "yes"}, "stream_options"),
    "stream options as a list": ({"messages": MESSAGES, "stream_options": [1]}, "stream_options"),
    "stream options as false": ({"messages": MESSAGES, "stream_options": False}, "stream_options"),
    "stream options as an empty list": ({"messages": MESSAGES, "stream_options": []}, "stream_options"),
}


@pytest.mark.parametrize("path", NATIVE_POSTS)
async def test_a_native_chat_is_one_answer(api, path):
    asked = {"messages": MESSAGES, "n": 2}
    assert_refused(await api.http.post(path, json=asked), 400, type="invalid_request_error", param="n")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(("content", "param"), INVALID.values(), ids=INVALID.keys())
async def test_an_invalid_field_is_named(api, path, content, param):
    assert_refused(await api.http.post(path, json=content), 400, type="invalid_request_error", param=param)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("header", ["X-Piropiro-On-Worker-Loss", "X-Piropiro-On-Disconnect"])
async def test_an_unknown_choice_in_a_header_is_named(api, path, header):
    answer = await api.http.post(path, json=body(), headers={header: "perhaps"})
    assert_refused(answer, 400, param=header)


async def test_a_refused_body_takes_no_idempotency_key(api, key):
    refused = await api.http.post("/v1/chats", json={"messages": []}, headers={"Idempotency-Key": key})
    assert refused.status_code == 400
    await api.create(body({"deltas": ["a"]}), idempotency_key=key)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1"),
        ("GET", "/v1/chats/chat_none/nothing"),
        ("POST", "/v1/chat/completions/x"),
        ("GET", "/v1/チャット"),
    ],
)
async def test_an_unknown_route_is_404(api, method, path):
    assert_refused(await api.http.request(method, path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/stream", "POST"),
        ("PUT", "/v1/chat/stream", "POST"),
        ("GET", "/v1/chats", "POST"),
        ("DELETE", "/v1/chats/chat_x", "GET"),
        ("POST", "/v1/chats/chat_x/stream", "GET"),
        ("GET", "/v1/chats/chat_x/cancel", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
async def test_a_wrong_method_is_405_and_told_the_right_one(api, method, path, allowed):
    answer = await api.http.request(method, path)
    assert_refused(answer, 405)
    assert allowed in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/chats/{}"), ("GET", "/v1/chats/{}/stream"), ("POST", "/v1/chats/{}/cancel")],
)
@pytest.mark.parametrize("chat_id", ["chat_aaaaaaaaaaaaaaaaaaaa", "x", "%7B%7D", "%F0%9F%91%8D", "*", "a" * 3000])
async def test_an_unknown_chat_is_404(api, method, path, chat_id):
    assert_refused(await api.http.request(method, path.format(chat_id)), 404)


@pytest.mark.parametrize("form", ["html", "JSON", "text,json", " "])
async def test_an_unknown_format_is_400(api, form):
    posted = await api.http.post("/v1/chat/stream", params={"format": form}, json=body({"deltas": ["a"]}))
    assert_refused(posted, 400, param="format")
    chat = await api.create(body({"deltas": ["a"]}))
    followed = await api.http.get(f"/v1/chats/{chat['id']}/stream", params={"format": form})
    assert_refused(followed, 400, param="format")


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_of_the_longest_length_is_accepted(api, path, key):
    text = json.dumps(body({"deltas": ["a"], "key": key}))
    answer = await api.http.post(path, content=text.ljust(1_048_576))
    assert answer.is_success


async def in_parts(content: bytes):
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("send", [bytes, in_parts], ids=["with its length", "in chunks"])
async def test_a_longer_body_is_413(impatient_api, path, send):
    content = json.dumps(body({"deltas": ["a"]})).encode().ljust(50_001)
    assert_refused(await impatient_api.http.post(path, content=send(content)), 413)


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_in_chunks_of_the_longest_length_is_accepted(impatient_api, path):
    content = json.dumps(body({"deltas": ["a"]})).encode().ljust(50_000)
    assert (await impatient_api.http.post(path, content=in_parts(content))).is_success


@pytest.mark.parametrize("nested", ['{"a":', "["], ids=["objects", "arrays"])
async def test_no_depth_of_nesting_is_an_internal_error(api, nested):
    closing = "]" if nested == "[" else "}"
    for depth in (*range(100, 900, 100), *range(900, 1000)):
        deep = nested * depth + "1" + closing * depth
        content = f'{json.dumps(body({"deltas": ["a"]}))[:-1]}, "x": {deep}}}'
        answer = await api.http.post("/v1/chats", content=content)
        assert answer.status_code in (202, 400), (depth, answer.text)
