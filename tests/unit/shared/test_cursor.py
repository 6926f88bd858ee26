import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cursor import ACCEPTED, MAX_PART, START, TERMINAL, Cursor, EntryId, MalformedCursor

PART = st.integers(0, MAX_PART)


@given(PART, PART)
def test_a_cursor_parses_as_it_was_written(attempt, seq):
    cursor = Cursor("chat_abc", EntryId(attempt, seq))
    assert Cursor.parse(str(cursor)) == cursor


def test_ids_are_ordered_by_attempt_then_seq():
    assert START < ACCEPTED < EntryId(1, 0) < EntryId(1, 10) < EntryId(2, 0) < TERMINAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chat_abc",
        "chat_abc:",
        "chat_abc:1",
        "chat_abc:1-",
        "chat_abc:-1-1",
        "chat_abc:1-1 ",
        "chat_abc:01-1",
        "chat_abc:1-1-1",
        "chat_abc:1-18446744073709551616",
        "chat_abc:१-1",
        "chat abc:1-1",
        "a\nb:1-1",
        "x" * 65 + ":1-1",
    ],
)
def test_anything_else_is_malformed(text):
    with pytest.raises(MalformedCursor):
        Cursor.parse(text)
