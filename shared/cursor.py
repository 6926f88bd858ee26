"""Entry ids, and the cursors that name one to a client."""

import re
from typing import NamedTuple, Self

MAX_PART = 2**64 - 1

new_tuple = tuple.__new__
"""Makes a named tuple without a call of Python's own, for the places where that is half of the work."""

_CURSOR = re.compile(r"(?P<chat>[A-Za-z0-9_]{1,64}):(?P<attempt>0|[1-9][0-9]{0,19})-(?P<seq>0|[1-9][0-9]{0,19})")


class MalformedCursor(ValueError):
    """The text is not a cursor at all."""


class EntryId(NamedTuple):
    """A position in a log: attempt first, then the place in it; compares as Redis compares stream ids."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse Redis's own `<ms>-<seq>` form; the input is trusted."""
        attempt, _, seq = text.partition(b"-")
        return new_tuple(cls, (int(attempt), int(seq)))


START = EntryId(0, 0)
"""Before every entry."""

ACCEPTED = EntryId(0, 1)
"""The entry that is written together with the chat's record."""

TERMINAL = EntryId(MAX_PART, MAX_PART)
"""The largest id there is: Redis refuses any XADD after it, which is what seals a log."""


class Cursor(NamedTuple):
    """What a client says it has: everything of this chat up to and including this entry."""

    chat_id: str
    entry_id: EntryId

    def __str__(self) -> str:
        return f"{self.chat_id}:{self.entry_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `<chat id>:<attempt>-<seq>`.

        Raises:
            MalformedCursor: it has another form, or a number beyond 64 bits.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise MalformedCursor("a cursor has the form <chat id>:<attempt>-<seq>")
        attempt, seq = int(match["attempt"]), int(match["seq"])
        if max(attempt, seq) > MAX_PART:
            raise MalformedCursor("a cursor's numbers have at most 64 bits")
        return cls(match["chat"], EntryId(attempt, seq))
