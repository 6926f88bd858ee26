"""What a response's events become, and that any part of it can be resumed; the SDK's own types judge both."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from simulator.generations import Draft
from simulator.reply import Choice
from simulator.script import ErrorFault, ToolCall
from simulator.tokens import tokenise
from worker.responses_events import Failed, Malformed, Translator, response_id_of

EVENT = TypeAdapter(ResponseStreamEvent)
BLANK = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
FULL = Choice(
    content=("He", "llo", " you"),
    reasoning=("think", " a", " bit"),
    refusal=("but", " no"),
    tool_calls=(ToolCall("f", {"x": 1}), ToolCall("g", "{}")),
    finish_reason="stop",
)


def choice(**parts):
    empty = {"content": (), "reasoning": (), "refusal": (), "tool_calls": (), "finish_reason": "stop"}
    return Choice(**empty | parts)


def draft(choice_, *, has_summary=False, has_logprobs=False):
    ids = [f"call_{index}" for index in range(len(choice_.tool_calls))]
    return Draft(BLANK, choice_, input_tokens=3, call_ids=ids, has_summary=has_summary, has_logprobs=has_logprobs)


def events_of(choice_=FULL, error=None, **options):
    """The simulator's events, each of which the SDK takes for one."""
    events = [json.loads(json.dumps(moment.event)) for moment in draft(choice_, **options).moments(error)]
    for event in events:
        EVENT.validate_python(event)
    return events


def chunks_of(events, translator=None):
    translator = translator or Translator()
    chunks = [chunk for event in events for chunk in translator.translate(event)]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks


def folded(chunks):
    """The message that the chunks amount to."""
    message, calls, finish_reason, usage = {}, [], None, None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for part in chunk["choices"]:
            finish_reason = part["finish_reason"] or finish_reason
            for name, value in part["delta"].items():
                if name != "tool_calls":
                    message[name] = message.get(name, "") + value
                    continue
                (call,) = value
                if "id" in call:
                    assert call["index"] == len(calls)
                    calls.append([call["id"], call["function"]["name"], ""])
                calls[call["index"]][2] += call["function"]["arguments"]
    return message, calls, finish_reason, usage


def test_all_that_a_response_says_is_in_the_chunks():
    message, calls, finish_reason, usage = folded(chunks_of(events_of()))
    assert message == {
        "role": "assistant",
        "reasoning_content": "think a bit",
        "content": "Hello you",
        "refusal": "but no",
    }
    assert calls == [["call_0", "f", '{"x":1}'], ["call_1", "g", "{}"]]
    assert finish_reason == "tool_calls"
    generated = 8 + 2 + len(tokenise('{"x":1}')) + len(tokenise("{}"))
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, generated, 3 + generated)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_every_chunk_has_the_same_envelope_and_says_where_it_is_from():
    chunks = chunks_of(events_of())
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {("resp_1", 1, "m")}
    assert {chunk["upstream_response_id"] for chunk in chunks} == {"resp_1"}
    numbers = [chunk["upstream_sequence_number"] for chunk in chunks]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter")]
)
def test_finish_reasons(finish, reason):
    chunks = chunks_of(events_of(choice(content=("a",), finish_reason=finish)))
    assert folded(chunks)[2] == reason


def test_a_summary_of_reasoning_is_reasoning():
    assert folded(chunks_of(events_of(has_summary=True)))[0]["reasoning_content"] == "think a bit"


def test_parts_of_a_summary_are_set_apart():
    translator = Translator("resp_1", has_role=True)
    part = {"type": "response.reasoning_summary_part.added", "summary_index": 1, "sequence_number": 9}
    assert folded(chunks_of([part], translator))[0] == {"reasoning_content": "\n\n"}


def test_log_probabilities_are_kept():
    chunks = chunks_of(events_of(choice(content=("He",)), has_logprobs=True))
    (first,) = [chunk for chunk in chunks if chunk["choices"] and "logprobs" in chunk["choices"][0]]
    (token,) = first["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("He", -0.125, [72, 101])


def test_a_citation_is_an_annotation():
    citation = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    event = {"type": "response.output_text.annotation.added", "annotation": citation, "sequence_number": 4}
    (chunk,) = Translator("resp_1", has_role=True).translate(event)
    (annotation,) = chunk["choices"][0]["delta"]["annotations"]
    assert annotation["url_citation"] == {"url": "u", "title": "t", "start_index": 0, "end_index": 1}


def test_unknown_events_say_nothing():
    assert Translator().translate({"type": "response.web_search_call.searching", "sequence_number": 0}) == []


@given(st.integers(0, 100), st.booleans())
def test_a_response_cut_anywhere_is_resumed_exactly(stored, has_summary):
    events = events_of(has_summary=has_summary)
    whole = chunks_of(events)
    kept = whole[:stored]
    translator = Translator.after("resp_1", kept)
    rest = chunks_of([event for event in events if event["sequence_number"] > translator.seen], translator)
    assert kept + rest == whole
    assert translator.is_over


@given(st.integers(0, 100))
def test_a_server_that_sends_everything_anew_does_no_harm(stored):
    events = events_of()
    whole = chunks_of(events)
    assert whole[:stored] + chunks_of(events, Translator.after("resp_1", whole[:stored])) == whole


def test_events_without_numbers_are_counted():
    numbered = events_of()
    bare = [{name: value for name, value in event.items() if name != "sequence_number"} for event in numbered]
    translator = Translator()
    assert [chunk for event in bare for chunk in translator.translate(event)] == chunks_of(numbered)


@pytest.mark.parametrize(
    ("code", "is_final"), [(None, False), ("rate_limit_exceeded", False), ("invalid_prompt", True)]
)
def test_a_failed_response_is_told_apart_from_a_bad_request(code, is_final):
    with pytest.raises(Failed) as caught:
        chunks_of(events_of(error=ErrorFault(after=2, message="no", code=code)))
    assert (caught.value.is_final, caught.value.has_ended) == (is_final, True)
    assert caught.value.body["message"] == "no"


def test_an_error_event_does_not_say_that_the_response_has_ended():
    with pytest.raises(Failed) as caught:
        Translator().translate({"type": "error", "code": "x", "message": "no", "param": None, "sequence_number": 3})
    assert (caught.value.has_ended, caught.value.body["code"]) == (False, "x")


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": "response.output_text.delta", "sequence_number": 0},
        {"type": "response.created", "sequence_number": 0, "response": None},
        {"type": "response.function_call_arguments.delta", "sequence_number": 0, "output_index": 9, "delta": ""},
        {"type": "response.output_text.delta", "sequence_number": "x", "delta": ""},
    ],
)
def test_what_is_no_event_is_malformed(event):
    with pytest.raises(Malformed):
        Translator().translate(event)


def test_the_first_event_tells_the_id():
    events = events_of()
    assert response_id_of(events[0]) == "resp_1"
    assert response_id_of(events[5]) is None
    assert response_id_of({"type": "response.created"}) is None
