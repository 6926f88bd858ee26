"""What of a posted body reaches the upstream: everything, plus model, stream and stream_options.include_usage."""

import json

import pytest
from harness.client import MESSAGES, body
from harness.stack import API_KEY

EXTRAS = {
    "sampling": {"temperature": 0.7, "top_p": 1, "max_tokens": 5, "seed": 42, "stop": ["\n", "END"], "logit_bias": {}},
    "tools": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": []}}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    },
    "response format": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True}}},
    "unknown names": {"x_vendor": {"ネスト": [1, [2, {"a": None}], {}, []]}, "": "", "messages2": None},
    "nulls": {"stop": None, "temperature": None, "user": None, "metadata": {"a": None}},
    "numbers": {
        "a": 123456789012345678901234567890,
        "b": -(2**63) - 1,
        "c": 1.0,
        "d": 1,
        "e": 0.1,
        "f": 1e-7,
        "g": 1e22,
        "h": [True, 1, 1.0, 0, False, -0.0],
    },
    "text": {"user": "\u2028 \x00 👩‍👩‍👧 </script>", "z": "\\u0041"},
    "stream options": {"stream_options": {"include_usage": True, "include_obfuscation": False}},
    "n": {"n": 1},
}


def exact(value: object) -> str:
    """JSON text in which 1, 1.0 and true differ, and the order of members does not matter."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
async def test_parameters_pass_unchanged(api, simulator, key, extra):
    posted = body({"key": key, "deltas": ["a"]}, model="some/model", **extra)
    await api.ask(posted)
    sent = (await simulator.request(key))["body"]
    added = {"stream": True, "stream_options": {**extra.get("stream_options", {}), "include_usage": True}}
    assert exact(sent) == exact(posted | added)


async def test_messages_pass_unchanged(api, simulator, key):
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}], "x": [None]},
        {"role": "tool", "tool_call_id": "1", "content": ""},
        {"role": "user", "content": "やっほ", "name": "n"},
    ]
    await api.ask(body({"key": key, "deltas": ["a"]}) | {"messages": messages})
    assert exact((await simulator.request(key))["body"]["messages"]) == exact(messages)


async def test_nothing_is_added_but_model_stream_and_usage(api, simulator, key):
    posted = body({"key": key, "deltas": ["a"]})
    await api.ask(posted)
    added = {"model": "gpt-4o-mini", "stream": True, "stream_options": {"include_usage": True}}
    assert (await simulator.request(key))["body"] == posted | added


@pytest.mark.parametrize("stream", [False, None, True, "no"])
async def test_the_clients_stream_is_ignored(api, simulator, key, stream):
    reading = await api.ask(body({"key": key, "deltas": ["a"]}, stream=stream))
    assert [event.data for event in reading.events] == ["a", "[DONE]"]
    assert (await simulator.request(key))["body"]["stream"] is True


async def test_the_model_named_is_the_model_of_the_chat(api, simulator, key):
    chat = await api.create(body({"key": key, "deltas": ["a"]}, model="gpt-4o"))
    assert chat["model"] == "gpt-4o"
    reading = await api.read(chat["id"], form="json")
    assert next(event for event in reading.events if event.name == "started").json["model"] == "gpt-4o"


async def test_no_header_of_the_client_reaches_the_upstream(api, simulator, key):
    posted = body({"key": key, "deltas": ["a"]})
    headers = {"Authorization": "Bearer invalid-of-the-client", "Idempotency-Key": key, "User-Agent": "client/1"}
    answer = await api.http.post("/v1/chat/stream", json=posted, headers=headers)
    assert answer.text.endswith("data: [DONE]\n\n")
    headers = (await simulator.request(key))["headers"]
    assert headers["user-agent"] != "client/1"
    assert "idempotency-key" not in headers


async def test_the_upstreams_key_is_never_shown(api):
    fault = {"kind": "status", "status": 400, "message": f"Incorrect API key provided: {API_KEY}"}
    reading = await api.ask(body({"fault": fault}), form="json")
    assert reading.events[-1].name == "error"
    assert API_KEY.encode() not in reading.received


async def test_a_body_may_be_sent_with_any_content_type(api):
    text = json.dumps({"messages": MESSAGES, "simulator": {"ttft": 0, "deltas": ["a"]}})
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await api.http.post("/v1/chat/stream", content=text, headers={"Content-Type": content_type})
        assert answer.text.endswith("data: [DONE]\n\n")
