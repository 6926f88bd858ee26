"""The course of a stream: frames, deadlines and faults."""

import json
from typing import Any

import pytest

from simulator.chunks import FrameWriter, Head, write_completion
from simulator.question import parse_question
from simulator.reply import Reply, write_reply
from simulator.script import Script, parse_script
from simulator.timeline import End, Step, Strike, Write, due_at, duration, plan

Json = dict[str, Any]


def reply_to(script: Script, **params: Any) -> Reply:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **params}
    return write_reply(parse_question(json.dumps(body).encode()), script)


def course(fields: Json, *, usage: bool = False, logprobs: bool = False, **params: Any) -> list[Step]:
    script = parse_script(fields, None)
    writer = FrameWriter(Head("ab" * 20, "m", script.extra), with_usage=usage, with_logprobs=logprobs)
    return list(plan(reply_to(script, **params), script, writer, script.faults(0)))


def sent(steps: list[Step]) -> bytes:
    return b"".join(step.data for step in steps if isinstance(step, Write))


def chunks(fields: Json, **params: Any) -> list[Json]:
    *frames, done, rest = sent(course(fields, **params)).decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def deltas(found: list[Json]) -> list[Json]:
    return [choice["delta"] for chunk in found for choice in chunk["choices"]]


def test_a_stream_goes_from_role_to_finish_reason() -> None:
    found = chunks({"deltas": ["a", "", "b"]})
    role = {"role": "assistant", "content": ""}
    assert deltas(found) == [role, {"content": "a"}, {"content": ""}, {"content": "b"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None] * 4 + ["stop"]
    assert not any("usage" in chunk for chunk in found)


def test_chunks_share_their_head() -> None:
    found = chunks({"tokens": 3, "extra": {"service_tier": "x", "provider": {"a": [1]}}}, usage=True)
    heads = [{key: value for key, value in chunk.items() if key not in ("choices", "usage")} for chunk in found]
    assert all(head == heads[0] for head in heads)
    assert heads[0]["object"] == "chat.completion.chunk"
    assert heads[0]["provider"] == {"a": [1]}


def test_usage_is_null_until_the_chunk_without_choices() -> None:
    *before, last = chunks({"tokens": 3, "reasoning": "hm"}, usage=True)
    assert [chunk["usage"] for chunk in before] == [None] * len(before)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


def test_parallel_tool_calls_come_in_pieces() -> None:
    calls = [{"name": "f", "arguments": {"city": "Kyoto"}}, {"name": "g", "arguments": '{"x": [1, 2]}'}]
    role, *pieces, last = deltas(chunks({"tool_calls": calls}))
    assert (role["content"], last) == (None, {})
    merged: dict[int, Json] = {}
    for piece in pieces:
        (call,) = piece["tool_calls"]
        if "id" in call:
            merged[call["index"]] = call
        else:
            merged[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    assert [json.loads(call["function"]["arguments"]) for call in merged.values()] == [{"city": "Kyoto"}, {"x": [1, 2]}]
    assert len({call["id"] for call in merged.values()}) == 2
    assert len(pieces) > 6


def test_choices_take_turns() -> None:
    found = chunks({"tokens": 2}, n=2)
    assert [chunk["choices"][0]["index"] for chunk in found] == [0, 1] * 4


def test_logprobs_come_with_content_if_asked_for() -> None:
    _, first, _ = chunks({"deltas": ["ピ"]}, logprobs=True)
    (entry,) = first["choices"][0]["logprobs"]["content"]
    assert bytes(entry["bytes"]).decode() == entry["token"] == "ピ"
    assert chunks({"deltas": ["ピ"]})[1]["choices"][0]["logprobs"] is None


def test_reasoning_and_refusal_have_their_own_fields() -> None:
    assert {"reasoning_content": "hm"} in deltas(chunks({"reasoning": "hm"}))
    assert deltas(chunks({"refusal": "no"})) == [{"role": "assistant", "content": None}, {"refusal": "no"}, {}]


def test_raw_chunks_are_all_there_is() -> None:
    raw: list[Json] = [{"a": 1}, {"choices": []}]
    assert chunks({"raw_chunks": raw}) == raw


def test_a_stream_and_a_completion_say_the_same() -> None:
    reply = reply_to(Script())
    whole = json.loads(write_completion(Head("ab" * 20, "m", {}), reply, with_logprobs=False))
    streamed = "".join(delta.get("content", "") for delta in deltas(chunks({})))
    assert whole["choices"][0]["message"]["content"] == streamed
    assert whole["usage"] == chunks({}, usage=True)[-1]["usage"]


def test_deadlines_are_exact_if_scripted() -> None:
    steps = course({"deltas": ["a", "b", "c"], "ttft": 1, "interval": 0.5})
    assert [step.due for step in steps if isinstance(step, Write) and step.deltas] == [1, 1.5, 2]
    script = Script(ttft=1, interval=0.5, deltas=("a", "b", "c"))
    assert duration(reply_to(script), script) == 2


def test_jitter_keeps_the_order_and_the_pace() -> None:
    dues = [due_at(Script(), position) for position in range(1000)]
    assert dues == sorted(dues)
    assert dues[0] == 0.25
    assert dues[-1] == pytest.approx(0.25 + 999 * 0.025, abs=0.025)


def test_crlf_ends_every_line() -> None:
    data = sent(course({"tokens": 2, "crlf": True}))
    assert data.count(b"\r\n") == data.count(b"\n") == 10


def test_comments_come_before_every_delta() -> None:
    assert sent(course({"tokens": 3, "comments": True})).count(b": ping\n\n") == 4


FAULTY = {"deltas": ["a", "b", "c"]}


@pytest.mark.parametrize("after", [0, 2, 3])
@pytest.mark.parametrize(
    ("kind", "is_clean", "tail"),
    [
        ("cut", False, None),
        ("truncate", True, b""),
        ("done_without_finish", True, b"data: [DONE]\n\n"),
    ],
)
def test_a_fault_ends_the_stream_after_its_deltas(kind: str, is_clean: bool, tail: bytes | None, after: int) -> None:
    steps = course({**FAULTY, "fault": {"kind": kind, "after": after}})
    assert steps[-2:] == [Strike(kind), End(is_clean, kind)]
    assert sum(step.deltas for step in steps if isinstance(step, Write)) == after
    data = sent(steps)
    assert b'"finish_reason":"' not in data
    if tail is None:
        assert not data.endswith(b"\n\n")
    else:
        assert data.removesuffix(tail).endswith(b'"finish_reason":null}]}\n\n')


def test_an_error_event_precedes_done() -> None:
    data = sent(course({**FAULTY, "fault": {"kind": "error", "after": 1, "message": "oops"}}))
    error, done = data.split(b"\n\n")[-3:-1]
    assert json.loads(error.removeprefix(b"data: "))["error"]["message"] == "oops"
    assert done == b"data: [DONE]"


def test_after_garbage_and_stall_the_stream_goes_on() -> None:
    faults = [{"kind": "garbage", "text": "<html>"}, {"kind": "stall", "after": 1, "seconds": 2}]
    steps = course({**FAULTY, "fault": faults})
    assert [step for step in steps if isinstance(step, Strike)] == [Strike("garbage"), Strike("stall", 2)]
    assert steps[-1] == End(is_clean=True)
    clean = sent(course(FAULTY))
    assert sent(steps).replace(b"<html>", b"") == clean


def test_a_fault_beyond_the_end_comes_before_the_finish_reason() -> None:
    steps = course({**FAULTY, "fault": {"kind": "truncate", "after": 99}})
    assert sum(step.deltas for step in steps if isinstance(step, Write)) == 3
    assert steps[-1] == End(is_clean=True, fault="truncate")


def test_a_cut_beyond_the_end_comes_after_the_finish_reason() -> None:
    steps = course({**FAULTY, "fault": {"kind": "cut", "after": 4}}, usage=True)
    assert steps[-2:] == [Strike("cut"), End(is_clean=False, fault="cut")]
    *_, finish, rest = sent(steps).split(b"\n\n")
    assert json.loads(finish.removeprefix(b"data: "))["choices"][0]["finish_reason"] == "stop"
    assert rest.startswith(b"data: ")
    assert b"[DONE]" not in rest


def test_a_cut_after_the_last_delta_has_no_whole_finish_reason() -> None:
    data = sent(course({**FAULTY, "fault": {"kind": "cut", "after": 3}}, usage=True))
    assert b'"finish_reason":"stop"' not in data
    assert not data.endswith(b"\n\n")
