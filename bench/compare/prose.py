"""What a typical answer says: prose in tokens of one to five bytes, as models write it, taken from this project's docs.

Digits or random words would compress worse or better than what people ask for.
"""

import functools
import re
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
_STRIDE = 997
"""Tokens between the beginnings of two answers, so that no two are the same."""

_NOT_PLAIN = re.compile(r'[^ -~]|["\\]')
"""What JSON would escape, or UTF-8 make longer."""


@functools.cache
def _tokens() -> list[bytes]:
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(_DOCS.glob("*.md")))
    plain = " ".join(_NOT_PLAIN.sub(" ", text).split())
    return [token.encode() for token in re.findall(r" ?[^ ]{1,4}", plain)]


def answer(which: int, deltas: int) -> list[bytes]:
    """The tokens of answer number `which`."""
    tokens = _tokens()
    return [tokens[(which * _STRIDE + number) % len(tokens)] for number in range(deltas)]
