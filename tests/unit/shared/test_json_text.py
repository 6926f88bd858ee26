import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import json_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_is_dumped_loads_as_it_was(value):
    assert json_text.loads(json_text.dumps(value)) == value


def test_a_lone_surrogate_survives():
    assert json_text.loads(b'{"content":"\\ud83d"}') == {"content": "\ud83d"}
    assert json_text.dumps({"content": "\ud83d"}) == b'{"content":"\\ud83d"}'


def test_an_integer_of_any_size_survives():
    assert json_text.dumps(json_text.loads(b"[123456789012345678901234567890]")) == b"[123456789012345678901234567890]"


def test_nesting_is_limited_the_same_for_every_caller():
    deep = b"[" * json_text.MAX_DEPTH + b"]" * json_text.MAX_DEPTH
    assert json_text.loads(deep)
    with pytest.raises(ValueError, match="nested"):
        json_text.loads(b'{"a":' + deep + b"}")
    assert len(json_text.loads(b"[" + b"[]," * 10_000 + b"{}]")) == 10_001


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"NaN", b"[Infinity]", b"1e999", b"\xff", b'"\xed\xa0\x80"', b"[" * 100_000, b"1" * 5000, b"{}x"],
)
def test_what_is_not_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r".+"):
        json_text.loads(text)
