"""The events of a response: their bytes, their types, their order, and that they depend on nothing but the log."""

import json

import pytest
from harness.chat_logs import LogBuilder
from harness.response_logs import BACKGROUND, CHAT_ID, DATA, LOGPROBS, LOGS, begun, head, whole
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.responses.encoder import ResponseEncoder
from api.responses.fold import RESTARTED, ResponseFold
from api.responses.shape import chat_id_of, response_id_of
from shared.cursor import START, EntryId
from shared.events import Kind

EVENT = TypeAdapter(ResponseStreamEvent)
NOT_IN_THE_TYPES = {"response": {"store"}, "response.function_call_arguments.done": {"name"}}
"""What OpenAI sends and its types do not have, or no longer."""

OPENING = ["response.created", "response.in_progress"]
TERMINAL = {"response.completed", "response.failed", "response.incomplete"}


def parse(stream):
    """The events' data; asserts the form of the frames."""
    assert stream == b"" or stream.endswith(b"\n\n")
    events = []
    for frame in stream.split(b"\n\n")[:-1]:
        name, data = frame.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        events.append(event)
    return events


def types(events):
    return [event["type"] for event in events]


def fold(response_head, log):
    folding = ResponseFold(response_head)
    events = [event for entry in log.entries for event in folding.take(entry)]
    return folding, [event.data for event in events]


def read(response_head, entries, after=None, last_restart=START):
    encoder = ResponseEncoder(response_head, after, last_restart)
    return b"".join(encoder.frame(entry) for entry in entries)


def last_restart(entries):
    return max((entry.id for entry in entries if entry.kind is Kind.RESTART), default=START)


@pytest.mark.parametrize("name", LOGS)
def test_a_log_always_folds_to_the_same_bytes(name):
    assert whole(name) == (DATA / f"{name}.sse").read_bytes()


@pytest.mark.parametrize("name", LOGS)
def test_every_event_is_valid_by_the_types_of_the_sdk_and_has_nothing_beside_them(name):
    for data in parse(whole(name)):
        event = EVENT.validate_json(json.dumps(data), strict=True)
        assert event.type == data["type"]
        assert set(event.model_extra or ()) <= NOT_IN_THE_TYPES.get(event.type, set())
        if "response" in data:
            assert_is_response(data["response"])


def assert_is_response(data):
    response = Response.model_validate_json(json.dumps(data), strict=True)
    assert set(response.model_extra) <= NOT_IN_THE_TYPES["response"]
    for item in response.output:
        assert not item.model_extra


@pytest.mark.parametrize("name", LOGS)
def test_the_object_is_valid_after_every_entry(name):
    response_head, log = LOGS[name]
    folding = ResponseFold(response_head)
    assert_is_response(folding.response())
    for entry in log.entries:
        folding.take(entry)
        assert_is_response(folding.response())


def test_every_kind_of_event_that_can_occur_has_a_fixture():
    seen = {event["type"] for name in LOGS for event in parse(whole(name))}
    assert seen == {
        *("response.created", "response.queued", "response.in_progress", *TERMINAL, "error"),
        *("response.output_item.added", "response.output_item.done"),
        *("response.content_part.added", "response.content_part.done"),
        *(f"response.{kind}.{step}" for kind in ("output_text", "refusal") for step in ("delta", "done")),
        *("response.reasoning_text.delta", "response.reasoning_text.done"),
        *("response.reasoning_summary_text.delta", "response.reasoning_summary_text.done"),
        *("response.reasoning_summary_part.added", "response.reasoning_summary_part.done"),
        *("response.function_call_arguments.delta", "response.function_call_arguments.done"),
    }


@pytest.mark.parametrize("name", LOGS)
def test_numbers_have_no_gaps_and_exactly_one_terminal_event_ends_it(name):
    events = parse(whole(name))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [kind for kind in types(events) if kind in TERMINAL] == [types(events)[-1]]


def test_the_order_is_openais():
    _, events = fold(head(**BACKGROUND), begun().texts("a", "b").done())
    assert types(events) == [
        *("response.created", "response.queued", "response.in_progress", "response.output_item.added"),
        *("response.content_part.added", "response.output_text.delta", "response.output_text.delta"),
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]
    assert [event["response"]["status"] for event in events if "response" in event] == [
        *("queued", "queued", "in_progress", "completed"),
    ]


def test_what_is_not_background_is_never_queued():
    _, events = fold(head(), LogBuilder())
    assert types(events) == ["response.created"]
    assert events[0]["response"]["status"] == "in_progress"


def test_empty_deltas_make_no_events():
    _, events = fold(head(), begun().texts("", "").delta({"content": None, "refusal": None, "tool_calls": None}))
    assert types(events) == OPENING


def test_reasoning_ends_before_text_begins_and_may_come_again():
    log = begun().delta({"reasoning_content": "a"}).texts("b").delta({"reasoning": "c", "content": "d"}).done()
    folding, _ = fold(head(), log)
    output = folding.response()["output"]
    assert [(item["type"], item["content"][0]["text"]) for item in output] == [
        *(("reasoning", "a"), ("message", "b"), ("reasoning", "c"), ("message", "d")),
    ]
    assert [item["id"].split("_")[0] for item in output] == ["rs", "msg", "rs", "msg"]
    assert all(item["id"].endswith(f"_{index}") for index, item in enumerate(output))


def calls_of(log):
    folding, events = fold(head(), log.done("tool_calls"))
    by_deltas = {}
    for event in events:
        if event["type"] == "response.function_call_arguments.delta":
            by_deltas[event["item_id"]] = by_deltas.get(event["item_id"], "") + event["delta"]
    calls = folding.response()["output"]
    assert all(by_deltas.get(call["id"], "") == call["arguments"] for call in calls)
    assert all(call["status"] == "completed" for call in calls)
    return [(call["call_id"], call["name"], call["arguments"]) for call in calls]


def test_calls_of_upstreams_that_give_every_call_the_same_index_stay_apart():
    assert calls_of(begun().call(0, "{}", "f", "a").call(0, "[]", "g", "b")) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_a_call_keeps_its_first_id_if_the_upstream_gives_every_piece_another():
    log = begun().call(0, "{", "f", "a").call(0, "}", None, "b")
    assert calls_of(log) == [("a", "f", "{}")]


def test_a_call_whose_name_comes_late_loses_no_arguments():
    assert calls_of(begun().call(0, '{"a"').call(0, ":1", "f", "a").call(0, "}")) == [("a", "f", '{"a":1}')]


def test_a_call_without_id_gets_one_and_without_name_is_shown():
    assert calls_of(begun().call(0, "{}", "f")) == [(f"call_{CHAT_ID.removeprefix('chat_')}_0", "f", "{}")]
    assert calls_of(begun().call(0, "{}", None, "a")) == [("a", "", "{}")]


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [None]},
        {"choices": [{"delta": None, "logprobs": 1}]},
        {"choices": [{"delta": {"content": 1, "tool_calls": [1, {}, {"index": "x", "function": 1}], "refusal": []}}]},
        {"choices": [{"delta": {}, "logprobs": {"content": [1, {"token": "a"}, {"token": 1, "logprob": 2}]}}]},
        {"choices": [{"index": 1, "delta": {"content": "another"}}]},
    ],
)
def test_a_strange_chunk_is_passed_over(chunk):
    _, events = fold(head(include=["message.output_text.logprobs"]), LogBuilder().started().chunk(chunk).texts("a"))
    assert [event["delta"] for event in events if "delta" in event] == ["a"]


@pytest.mark.parametrize(("bytes_", "shown"), [([97], [97]), ("a", []), ([None], []), ({}, []), (None, [])])
def test_bytes_of_a_token_that_are_none_are_left_out(bytes_, shown):
    token = {"token": "a", "logprob": -1, "bytes": bytes_}
    chunk = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [{**token, "top_logprobs": [token]}]}}]}
    _, events = fold(head(include=["message.output_text.logprobs"]), LogBuilder().started().chunk(chunk).done())
    (logprob,) = events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert logprob["bytes"] == logprob["top_logprobs"][0]["bytes"] == shown


def test_extras_of_the_upstream_are_left_out():
    extras = {"upstream_response_id": "resp_1", "upstream_sequence_number": 3, "x_other": 1}
    log = (
        LogBuilder().started().delta({"content": "a", "x_delta": 1}, **extras).delta({"content": "b"}, **extras).done()
    )
    assert read(head(), log.entries) == read(head(), LogBuilder().started().texts("a", "b").done().entries)


def test_the_tier_that_the_upstream_used_is_told_if_it_is_one():
    log = begun().delta({"content": "a"}, service_tier="flex").delta({"content": "b"}, service_tier="odd").done()
    folding, _ = fold(head(service_tier="auto"), log)
    assert folding.response()["service_tier"] == "flex"


def test_logprobs_are_told_only_if_they_were_asked_for():
    _, (response_head, log) = head(), LOGS["logprobs"]
    with_logprobs, _ = fold(response_head, log)
    without, _ = fold(head(), log)
    (part,) = with_logprobs.response()["output"][0]["content"]
    assert part["logprobs"][0]["bytes"] == [227, 130, 132]
    (part,) = without.response()["output"][0]["content"]
    assert part["logprobs"] == []


@pytest.mark.parametrize(
    ("finish_reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("eos", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_the_finish_reason_decides_the_status(finish_reason, status, details):
    folding, events = fold(head(), begun().texts("a").done(finish_reason))
    response = folding.response(completed_at=9)
    assert (response["status"], response["incomplete_details"]) == (status, details)
    assert response["output"][0]["status"] == status
    assert response["completed_at"] == (9 if status == "completed" else None)
    assert events[-1]["type"] == f"response.{status}"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_what_breaks_off_ends_no_item(end):
    log = begun().texts("a").call(0, '{"half', "f", "x")
    folding, events = fold(head(**BACKGROUND), getattr(log, end)())
    assert "response.function_call_arguments.done" not in types(events)
    response = folding.response()
    assert response["status"] == end
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert (response["error"] is not None) == (end == "failed")
    assert events[-1]["response"] == response


@pytest.mark.parametrize(
    ("code", "type_", "expected"),
    [
        ("worker_lost", "server_error", "server_error"),
        ("rate_limit_exceeded", "requests", "rate_limit_exceeded"),
        (None, "rate_limit_error", "rate_limit_exceeded"),
        ("context_length_exceeded", "invalid_request_error", "invalid_prompt"),
    ],
)
def test_an_error_has_one_of_openais_codes(code, type_, expected):
    folding, _ = fold(head(**BACKGROUND), begun().failed(code, type_))
    error = folding.response()["error"]
    assert (error["code"], error["message"], error["type"]) == (expected, "It went wrong.", type_)


def test_a_log_of_nothing_but_its_end_has_a_beginning():
    log = LogBuilder().failed()
    _, events = fold(head(**BACKGROUND), type("Log", (), {"entries": log.entries[1:]}))
    assert types(events) == ["response.created", "response.queued", "response.failed"]


def test_a_live_reader_is_told_of_a_restart_and_gets_no_more():
    log = begun().texts("Hal").restarted().role().texts("Hello").done()
    events = parse(read(head(), log.entries))
    assert types(events)[-1] == "error"
    assert events[-1]["code"] == RESTARTED
    assert "Hello" not in json.dumps(events)


def test_a_reader_that_opens_after_a_restart_sees_the_last_epoch_from_its_beginning():
    log = begun().texts("Hal").restarted().role().texts("Hello").restarted().role().texts("Hi").done()
    events = parse(read(head(**BACKGROUND), log.entries, last_restart=last_restart(log.entries)))
    assert types(events)[:2] == OPENING
    first = events[0]["sequence_number"]
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hi"
    assert [event["delta"] for event in events if "delta" in event] == ["Hi"]


def test_a_restart_that_supersedes_nothing_visible_is_not_told():
    log = begun().restarted().role().texts("Hello").done()
    events = parse(read(head(), log.entries))
    assert events == parse(read(head(), log.entries, last_restart=EntryId(2, 0)))
    assert types(events)[:3] == [*OPENING, "response.output_item.added"]


def test_continuing_is_seamless():
    log = begun().texts("Hal").started().role().texts("lo").done()
    assert read(head(), log.entries) == read(head(), begun().texts("Hal", "lo").done().entries)


ADDED = st.sampled_from(["text", "reasoning", "refusal", "call", "call2", "started", "restarted", "role"])


@st.composite
def logs(draw):
    log = begun()
    for number, kind in enumerate(draw(st.lists(ADDED, max_size=12))):
        match kind:
            case "text":
                log.texts(f"{number} ")
            case "reasoning" | "refusal":
                log.delta({kind: f"{number} "})
            case "call" | "call2":
                log.call(int(kind == "call2"), str(number), name=f"f{number}", id_=f"{kind}")
            case _:
                getattr(log, kind)()
    return getattr(log, draw(st.sampled_from(["done", "failed", "cancelled", "role"])))()


@given(log=logs())
def test_any_log_gives_valid_events_without_gaps(log):
    _, events = fold(head(**BACKGROUND), log)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for data in events:
        assert EVENT.validate_json(json.dumps(data), strict=True).type == data["type"]


@given(log=logs(), after=st.integers(0, 80))
def test_any_starting_after_gives_the_rest_of_its_epoch(log, after):
    _, events = fold(head(**BACKGROUND), log)
    rest = [event for event in events if event["sequence_number"] > after]
    ends = [position for position, event in enumerate(rest) if event["type"] == "error"]
    assert parse(read(head(**BACKGROUND), log.entries, after)) == (rest[: ends[0] + 1] if ends else rest)


@given(log=logs(), data=st.data())
def test_a_reader_that_comes_at_any_moment_sees_one_epoch_and_it_begins_with_created(log, data):
    came = data.draw(st.integers(1, len(log.entries)))
    _, events = fold(head(**BACKGROUND), log)
    stream = read(head(**BACKGROUND), log.entries, last_restart=last_restart(log.entries[:came]))
    seen = parse(stream)
    assert seen == events[seen[0]["sequence_number"] :][: len(seen)]
    assert types(seen).count("response.created") == 1
    assert types(seen)[0] == "response.created"
    assert "error" not in types(seen)[:-1]
    if "error" not in types(seen):
        assert seen[-1] == events[-1]


@given(log=logs())
def test_an_event_does_not_change_once_it_is_made(log):
    folding, events, frames = ResponseFold(head(include=["message.output_text.logprobs"])), [], []
    for entry in log.delta({"content": "x"}, logprobs=LOGPROBS).entries:
        for event in folding.take(entry):
            events.append(event)
            frames.append(event.frame())
    assert [event.frame() for event in events] == frames


@given(log=logs())
def test_a_quiet_fold_comes_to_the_same_response(log):
    quiet, (loud, _) = ResponseFold(head(), is_quiet=True), fold(head(), log)
    assert not any(quiet.take(entry) for entry in log.entries)
    assert quiet.response() == loud.response()


@given(log=logs())
def test_items_are_what_their_deltas_say(log):
    folding, events = fold(head(), log)
    begins = [position for position, event in enumerate(events) if event["type"] == "response.created"]
    told = {}
    for event in events[begins[-1] :]:
        if "delta" in event:
            place = (event["output_index"], event.get("content_index"))
            told[place] = told.get(place, "") + event["delta"]
    for index, item in enumerate(folding.response()["output"]):
        if item["type"] == "function_call":
            assert item["arguments"] == told[index, None]
        for place, part in enumerate(item.get("content", ())):
            assert (part.get("text") or part.get("refusal") or "") == told.get((index, place), "")


def test_only_a_responses_id_names_a_chat():
    """Whatever else a body says instead must not become part of a key: a lone surrogate has no UTF-8."""
    assert chat_id_of(response_id_of(CHAT_ID)) == CHAT_ID
    foreign = ("", "resp_", CHAT_ID, "resp_\ud800", "resp_a}{b", f"{response_id_of(CHAT_ID)}\n")
    assert [chat_id_of(each) for each in foreign] == [None] * len(foreign)
