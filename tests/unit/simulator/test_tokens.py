"""How the simulator cuts text into deltas."""

from hypothesis import given
from hypothesis import strategies as st

from simulator.tokens import is_japanese, tokenise

FAMILY = "👨\u200d👩\u200d👧\u200d👦"
CLUSTERS = [FAMILY, "👍🏽", "🇯🇵", "1\ufe0f\u20e3", "e\u0301", "か\u3099", "❤\ufe0f"]


@given(st.text() | st.lists(st.sampled_from([*CLUSTERS, " ", "ab", "\r", "\n", "漢", "カ"])).map("".join))
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(tokenise(text)) == text
    assert all(tokenise(text))


@given(st.lists(st.sampled_from([*CLUSTERS, " ", "ab", "漢", "カ", "!", "7"])))
def test_no_cluster_is_torn(parts: list[str]) -> None:
    for piece in tokenise("".join(parts)):
        assert piece[0] not in "\u200d\u0301\u3099\ufe0f\u20e3🏽"
        assert not piece.endswith("\u200d")


def test_japanese_comes_by_one_or_two_characters() -> None:
    assert tokenise("ピロピロは楽しい") == ("ピロ", "ピロ", "は", "楽", "しい")


def test_words_carry_their_leading_space() -> None:
    assert tokenise("Hello, my dear 42") == ("Hello", ",", " my", " dear", " 42")


def test_a_line_break_carries_its_indentation() -> None:
    assert tokenise("a:\n    b") == ("a", ":", "\n    ", "b")


def test_kana_or_kanji_make_japanese() -> None:
    assert is_japanese("hello 世界")
    assert is_japanese("やっほ")
    assert not is_japanese("héllo 🎌")
