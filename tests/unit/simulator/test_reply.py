"""What a reply consists of."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ApiError
from simulator.question import Question, parse_question
from simulator.reply import Choice, remainder, write_reply
from simulator.script import Script, ToolCall

USER = {"role": "user", "content": "hello"}


def question(*messages: dict[str, Any], **params: Any) -> Question:
    return parse_question(json.dumps({"model": "m", "messages": messages or [USER], **params}).encode())


def only_choice(asked: Question, script: Script) -> Choice:
    (choice,) = write_reply(asked, script).choices
    return choice


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b'"\xff"', 400, None),
        (b"[]", 400, None),
        (b'{"messages": [{"role": "user"}]}', 400, "model"),
        (b'{"model": "m"}', 400, "messages"),
        (b'{"model": "m", "messages": []}', 400, "messages"),
        (b'{"model": "m", "messages": [{"role": 1}]}', 400, "messages[0].role"),
        (b'{"model": "m", "messages": [{"role": "user"}], "n": 0}', 400, "n"),
        (b'{"model": "missing-m", "messages": [{"role": "user"}]}', 404, "model"),
    ],
)
def test_a_bad_body_is_refused(body: bytes, status: int, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse_question(body)
    assert (caught.value.status, caught.value.param) == (status, param)


def test_unknown_parameters_are_ignored() -> None:
    assert question(temperature=2, made_up={"a": 1}).model == "m"


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]
    assert question({"role": "user", "content": parts}).messages[0].text == "ab"


def test_scripted_deltas_are_exact() -> None:
    deltas = ("", "a\r\nb", "\u2028", "👍🏽", "x" * 65536, "data: [DONE]\n\n")
    assert only_choice(question(), Script(deltas=deltas)).content == deltas


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_tokens_is_the_number_of_deltas(count: int) -> None:
    assert len(only_choice(question(), Script(tokens=count)).content) == count
    assert len(only_choice(question(), Script(tokens=count, deltas=("a", "b"))).content) == count


def test_max_tokens_cuts_with_length() -> None:
    choice = only_choice(question(max_tokens=3), Script())
    assert (len(choice.content), choice.finish_reason) == (3, "length")


def test_tool_calls_replace_the_answer() -> None:
    choice = only_choice(question(), Script(tool_calls=(ToolCall("f", {"a": 1}),)))
    assert (choice.content, choice.finish_reason) == ((), "tool_calls")
    assert choice.tool_calls[0].arguments_json == '{"a":1}'


def test_the_scripted_finish_reason_wins() -> None:
    assert only_choice(question(), Script(finish_reason="content_filter")).finish_reason == "content_filter"


def test_choices_differ() -> None:
    first, second = write_reply(question(n=2), Script()).choices
    assert first.content != second.content


def test_a_final_assistant_message_is_continued() -> None:
    full = "".join(only_choice(question(), Script()).content)
    rest = only_choice(question(USER, {"role": "assistant", "content": full[:25]}), Script())
    assert "".join(rest.content) == full[25:]


def test_a_foreign_prefix_is_answered_in_full() -> None:
    full = only_choice(question(), Script()).content
    assert only_choice(question(USER, {"role": "assistant", "content": "No!"}), Script()).content == full


@given(st.lists(st.text(max_size=4)), st.data())
def test_prefix_and_remainder_make_the_whole(deltas: list[str], data: st.DataObject) -> None:
    text = "".join(deltas)
    prefix = text[: data.draw(st.integers(0, len(text)))]
    assert prefix + "".join(remainder(deltas, prefix)) == text
