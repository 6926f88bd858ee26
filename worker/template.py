"""A short cut for the chunks that repeat an earlier one, byte for byte, but for their text.

Nearly all of an answer's chunks do. Where JSON has a string, any other string can stand, and nothing around it changes
its meaning; so for such a chunk it is enough to parse its text. Whatever is not exactly so takes the long way.
"""

import re

from shared import json_text
from shared.events import Json, first_delta

_CONTENT = re.compile(rb'"content"\s*:\s*("(?:[^"\\]|\\.)*")')
_MISSES = 4
"""Lessons without any use after which no more are taken: this upstream's chunks differ in more."""


class TextTemplate:
    """What stands before and after the text, in the chunk that was learned last."""

    def __init__(self) -> None:
        self._before = b""
        self._after = b""
        self._misses = 0

    def text_of(self, raw: bytes) -> bytes | None:
        """The text of a chunk that is the learned one with another text, as UTF-8; None if it is not, or may not be."""
        before, after = self._before, self._after
        if not before or not raw.startswith(before) or not raw.endswith(after):
            return None
        text = json_text.loads_string(raw[len(before) : len(raw) - len(after)])
        if text is None:
            return None
        self._misses = 0
        return text

    def learn(self, raw: bytes, chunk: Json) -> None:
        """Look where the text of `raw`, which says `chunk`, stands."""
        delta = first_delta(chunk)
        text = delta.get("content") if delta is not None else None
        if self._misses == _MISSES or not isinstance(text, str):
            return
        self._misses += 1
        other = f"{text}."
        for match in _CONTENT.finditer(raw):
            before, after = raw[: match.start(1)], raw[match.end(1) :]
            # If another string in its place is read as the text, it is in no other string, nor in a member that another
            # one overrides.
            if _content(before + json_text.dumps(other) + after) == other:
                self._before, self._after = before, after
                return


def _content(raw: bytes) -> object:
    try:
        chunk = json_text.loads(raw)
    except ValueError:
        return None
    return (first_delta(chunk) or {}).get("content") if isinstance(chunk, dict) else None
