"""How text is cut into deltas: the way a model's tokens look, but deterministic and never inside a cluster."""

import re
from functools import lru_cache

_MARK = "[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff\u3099\u309a\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_CLUSTER = rf"(?:[\U0001f1e6-\U0001f1ff]{{2}}|[^\r\n]{_MARK}*(?:\u200d[^\r\n]{_MARK}*)*)"
_KANJI = "\u3005\u3007\u3400-\u9fff"
_KANA = "\u3041-\u30ff\uff66-\uff9f"
_LETTER = rf"(?:(?![{_KANA}{_KANJI}])[^\W\d_])"
# What takes part in a cluster cannot end a plain piece: the piece would tear it apart.
_PLAIN = rf"(?!{_MARK}|\u200d)"

_PIECE = re.compile(
    rf"(?:\r\n|\r|\n)+[ \t]*"
    rf"|[{_KANA}]{{2}}{_PLAIN}"
    rf"| ?{_LETTER}{{1,6}}{_PLAIN}"
    rf"| ?[0-9]{{1,3}}{_PLAIN}"
    rf"| ?[!-/:-@\[-`{{-~]{{1,3}}{_PLAIN}"
    rf"|[ \t]+{_PLAIN}"
    rf"|{_CLUSTER}",
)
_JAPANESE = re.compile(rf"[{_KANA}{_KANJI}]")
_CLUSTERS = re.compile(rf"{_CLUSTER}|\s", re.DOTALL)


@lru_cache(maxsize=512)
def tokenise(text: str) -> tuple[str, ...]:
    """Cut `text` into pieces that join to it: kana by two, kanji by one, words with their leading space."""
    return tuple(_PIECE.findall(text))


def clusters(text: str) -> list[str]:
    """Cut `text` into what a reader sees as single characters, roughly."""
    return _CLUSTERS.findall(text)


def is_japanese(text: str) -> bool:
    """Whether any kana or kanji occurs."""
    return _JAPANESE.search(text) is not None
