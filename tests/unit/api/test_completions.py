import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from api.completions import Completion, CompletionStream
from shared import events
from shared.cursor import ACCEPTED, START, TERMINAL, EntryId
from shared.events import ChunkEncoder, Entry

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
STARTED, RESTARTED = b'S{"model":"m","token":"t"}', b'R{"reason":"r","token":"t"}'
DONE = events.done("stop", None)


def chunk(delta, *, index=0, finish_reason=None, **members):
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**HEAD, "choices": [choice], **members}


def text(*parts, **members):
    """The chunks of a whole answer."""
    opening = chunk({"role": "assistant", "content": ""}, **members)
    return [opening, *(chunk({"content": part}, **members) for part in parts), chunk({}, finish_reason="stop")]


def log(*attempts, terminal=DONE):
    """A log: each attempt is how it begins, and its chunks."""
    entries = [Entry(ACCEPTED, events.accepted())]
    for number, (beginning, chunks) in enumerate(attempts, start=1):
        encoder = ChunkEncoder()
        values = [beginning, *map(encoder.encode, chunks)]
        entries += [Entry(EntryId(number, seq), value) for seq, value in enumerate(values)]
    return [*entries, Entry(TERMINAL, terminal)] if terminal else entries


def stream(entries, *, with_usage=True, since=START):
    """The data of the events that a reader gets."""
    encoder = CompletionStream(with_usage=with_usage, since=since)
    frames = b"".join(map(encoder.frame, entries)).decode()
    assert frames == "" or frames.endswith("\n\n")
    datas = [frame.removeprefix("data: ") for frame in frames.split("\n\n")[:-1]]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def whole(entries):
    return fold(entries).result()


def fold(entries):
    completion = Completion()
    for entry in entries:
        completion.frame(entry)
    return completion


def said(datas):
    """The text of a reader's chunks."""
    chunks = [data for data in datas if data != "[DONE]" and "error" not in data]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def codes(datas):
    return [data["error"]["code"] for data in datas if data != "[DONE]" and "error" in data]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
UNKNOWN = st.dictionaries(st.text("xyz", min_size=1, max_size=2), JSON, max_size=2)
LOGPROB = st.fixed_dictionaries(
    {"token": TEXT, "logprob": st.just(-0.5), "bytes": st.none(), "top_logprobs": st.just([])}
)


@st.composite
def answers(draw):
    """The chunks of a whole answer with several choices, as OpenAI sends them."""
    n = draw(st.integers(1, 3))
    chunks = [chunk({"role": "assistant", "content": ""}, index=index) for index in range(n)]
    calls = [0] * n
    for _ in range(draw(st.integers(0, 12))):
        index = draw(st.integers(0, n - 1))
        kind = draw(st.sampled_from(["content", "refusal", "reasoning_content", "call", "arguments", "logprobs"]))
        if kind == "call":
            function = {"name": draw(TEXT.filter(bool)), "arguments": ""}
            call = {"index": calls[index], "id": f"call_{calls[index]}", "type": "function", "function": function}
            calls[index] += 1
            delta = {"tool_calls": [call]}
        elif kind == "arguments" and calls[index]:
            call = draw(st.integers(0, calls[index] - 1))
            delta = {"tool_calls": [{"index": call, "function": {"arguments": draw(TEXT)}}]}
        elif kind in ("arguments", "logprobs"):
            delta = {"content": draw(TEXT)}
        else:
            delta = {kind: draw(TEXT)}
        chunks.append(chunk(delta, index=index))
        if kind == "logprobs":
            chunks[-1]["choices"][0]["logprobs"] = {"content": draw(st.lists(LOGPROB, max_size=2)), "refusal": None}
    chunks += [chunk({}, index=index, finish_reason="stop") for index in range(n)]
    return [*chunks, {**HEAD, "choices": [], "usage": USAGE}]


@given(answers(), UNKNOWN, UNKNOWN)
def test_a_stream_loses_and_adds_nothing(chunks, of_chunk, of_delta):
    chunks = [{**of_chunk, **chunk} for chunk in chunks]
    for each in chunks[1::2]:
        for choice in each["choices"]:
            choice["delta"] = {**of_delta, **choice["delta"]}
    assert stream(log((STARTED, chunks))) == [*chunks, "[DONE]"]


@given(answers())
def test_every_chunk_and_the_completion_are_what_the_sdk_expects(chunks):
    entries = log((STARTED, chunks))
    for data in stream(entries)[:-1]:
        TypeAdapter(ChatCompletionChunk).validate_python(data)
    TypeAdapter(ChatCompletion).validate_python(whole(entries))


def plain(completion):
    """What is comparable: the SDK numbers calls, adds members of its own, and leaves out what is null."""
    completion.pop("system_fingerprint", None)
    for choice in completion["choices"]:
        message = {name: value for name, value in choice["message"].items() if value not in (None, "")}
        message.pop("parsed", None)
        for call in message.get("tool_calls", []):
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
        choice["message"] = message
        choice["logprobs"] = {name: value for name, value in (choice.get("logprobs") or {}).items() if value}
    return completion


@given(answers())
def test_the_sdks_accumulator_makes_our_completion_of_our_stream(chunks):
    entries = log((STARTED, chunks))
    state = ChatCompletionStreamState()
    for data in stream(entries)[:-1]:
        state.handle_chunk(ChatCompletionChunk.construct(**data))
    folded = state.current_completion_snapshot.to_dict()
    assert plain(folded) == plain(whole(entries))


PARTS = st.lists(st.text("abc", min_size=1, max_size=2), max_size=4)
LATER = st.lists(st.tuples(st.sampled_from([STARTED, RESTARTED]), PARTS), max_size=3)


@given(PARTS, LATER, st.data())
def test_no_reader_ever_gets_text_of_two_answers(first, later, data):
    attempts = [(STARTED, first), *later]
    entries = log(*((how, text(*parts)[:-1]) for how, parts in attempts))
    answer = ""
    for how, parts in attempts:
        answer = "".join(parts) if how == RESTARTED else answer + "".join(parts)
    assert whole(entries)["choices"][0]["message"]["content"] == answer
    restarts = [entry.id for entry in entries if entry.value == RESTARTED]
    since = data.draw(st.sampled_from([START, *restarts]))
    shown = stream(entries, since=since)
    if shown[-1] == "[DONE]":
        assert said(shown) == answer
        assert len({(chunk["id"], chunk["created"]) for chunk in shown[:-1]}) == 1
    else:
        assert codes(shown) == ["generation_restarted"]
    if since == (restarts or [START])[-1]:
        assert shown[-1] == "[DONE]"


def test_a_continued_answer_goes_on_under_the_first_id_with_one_role():
    second = [{**each, "id": "chatcmpl-2", "created": 2, "model": "n"} for each in text("c")]
    shown = stream(log((STARTED, text("a", "b")[:-1]), (STARTED, second)))
    assert {(each["id"], each["created"], each["model"]) for each in shown[:-1]} == {("chatcmpl-1", 1, "m")}
    assert [each["choices"][0]["delta"].get("role") for each in shown[:-1]] == [
        "assistant",
        None,
        None,
        None,
        None,
        None,
    ]
    assert said(shown) == "abc"
    entries = log((STARTED, text("a", "b")[:-1]), (STARTED, second))
    completion = whole(entries)
    assert (completion["id"], completion["choices"][0]["message"]["content"]) == ("chatcmpl-1", "abc")


def test_a_restart_of_what_said_nothing_is_seamless():
    second = [{**each, "id": "chatcmpl-2"} for each in text("a")]
    shown = stream(log((STARTED, text()[:1]), (RESTARTED, second)))
    assert (said(shown), shown[-1]) == ("a", "[DONE]")
    assert [each["choices"][0]["delta"].get("role") for each in shown[:-1]] == ["assistant", None, None, None]
    assert {each["id"] for each in shown[:-1]} == {"chatcmpl-1"}


@pytest.mark.parametrize("delta", [{"reasoning": "a"}, {"tool_calls": [{"index": 0}]}, {"refusal": "a"}, {"x": 1}])
def test_a_restart_of_anything_that_was_said_is_an_error(delta):
    shown = stream(log((STARTED, [*text()[:1], chunk(delta)]), (RESTARTED, text("a"))))
    assert codes(shown) == ["generation_restarted"]
    assert shown[-1] != "[DONE]"


def test_an_attempt_that_begins_without_an_id_names_none():
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [1]}
    shown = stream(log((STARTED, [first, *text("a")])))
    assert shown[0] == first
    assert {each["id"] for each in shown[1:-1]} == {"chatcmpl-1"}
    completion = whole(log((STARTED, [first, *text("a")])))
    assert (completion["id"], completion["model"], completion["prompt_filter_results"]) == ("chatcmpl-1", "m", [1])


def test_usage_is_left_out_unless_it_was_asked_for():
    chunks = [*text("a", usage=None)[:-1], chunk({}, finish_reason="stop", usage=USAGE)]
    entries = log((STARTED, [*chunks, {**HEAD, "choices": [], "usage": USAGE}]))
    shown = stream(entries, with_usage=False)
    assert not any("usage" in each for each in shown[:-1])
    assert all(each["choices"] for each in shown[:-1])
    assert stream(entries)[-2]["usage"] == USAGE
    assert whole(entries)["usage"] == USAGE


def test_what_is_ours_in_a_chunk_is_not_shown():
    ours = {"upstream_response_id": "resp_1", "upstream_sequence_number": 1, "upstream_output_index": 0}
    entries = log((STARTED, text("a", **ours)))
    assert stream(entries)[:-1] == text("a")
    assert whole(entries).keys().isdisjoint(ours)


@pytest.mark.parametrize(
    ("terminal", "code"),
    [(events.error("no", "t", "c", "p", status=500, retry_after=1), "c"), (events.cancelled(), "cancelled")],
)
def test_a_failure_ends_the_stream_without_done(terminal, code):
    shown = stream(log((STARTED, text("a")[:-1]), terminal=terminal))
    assert codes(shown) == [code]
    assert shown[-1].keys() == {"error"}
    assert shown[-1]["error"].keys() == {"message", "type", "param", "code"}
    assert fold(log((STARTED, text("a")[:-1]), terminal=terminal)).terminal.value == terminal


def test_an_interrupted_stream_says_so_and_is_over():
    encoder = CompletionStream(with_usage=False)
    assert b"stream_interrupted" in encoder.interrupted()
    assert encoder.is_over


def test_unknown_members_are_folded_by_their_kind():
    deltas = [
        {
            "role": "assistant",
            "thought": "a",
            "items": [{"index": 1, "t": "x"}, 5],
            "deep": {"s": "1", "n": None},
            "f": 1,
        },
        {"role": "assistant", "thought": "b", "items": [{"index": 0, "t": "y"}, {"index": 1, "t": "z"}], "f": 2},
        {"thought": None, "deep": {"s": "2", "n": "3"}, "mixed": "a"},
        {"mixed": [1], "empty": [], "id": "i", "type": "t"},
        {"id": "", "type": "t"},
    ]
    message = whole(log((STARTED, [chunk(delta) for delta in deltas])))["choices"][0]["message"]
    items = [{"index": 0, "t": "y"}, {"index": 1, "t": "xz"}, 5]
    rest = {"thought": "ab", "items": items, "deep": {"s": "12", "n": "3"}, "f": 2, "mixed": [1], "empty": []}
    assert message == {"role": "assistant", "content": None, "refusal": None, **rest, "id": "i", "type": "t"}


@pytest.mark.parametrize(
    ("given_as", "whole_type"), [({}, "function"), ({"type": None}, "function"), ({"type": "x"}, "x")]
)
def test_a_call_of_a_message_has_a_type_even_if_its_deltas_have_none(given_as, whole_type):
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}, **given_as}
    (folded,) = whole(log((STARTED, [chunk({"tool_calls": [call]})])))["choices"][0]["message"]["tool_calls"]
    assert folded == {"id": "c", "type": whole_type, "function": {"name": "f", "arguments": "{}"}}


def test_a_long_answer_is_folded_in_linear_time():
    entries = log((STARTED, text(*["x" * 20] * 100_000)))
    assert len(whole(entries)["choices"][0]["message"]["content"]) == 2_000_000
