r"""Packed runs: how the many small rows of a sealed log's stream become few.

A stream keeps some 12 bytes of its own with every row, and a delta has four. So once a log is sealed (see
`shared.log`), each run of entries whose ids follow one another becomes one row, under the id of its last entry:

    <length>,<length>,…\n<values, concatenated>        deflated by zlib

The other ids follow from the number of lengths. Since the last id is the row's, asking the stream for what lies at or
above any id gives the row that holds it. A run is so short that a reader who wants only a part of it loses little.
"""

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from struct import Struct

from shared.cursor import EntryId, new_tuple
from shared.events import Entry

FIELD = b"e"
"""The one field of a row that is one entry: its value."""

PACKED = b"z"
"""The one field of a row that is a run."""

Row = tuple[bytes, tuple[bytes, bytes]]
"""A stream's row as Redis gives it: the id, then field and value."""

_RUN_BYTES = 16_384
_LEVEL = 1
"""zlib's fastest: a twentieth larger than its default, in half the time."""


def pack(values: Sequence[bytes]) -> bytes:
    """Make one of many, at least one."""
    lengths = ",".join(map(str, map(len, values)))
    return zlib.compress(b"%b\n%b" % (lengths.encode(), b"".join(values)), _LEVEL)


def unpack(packed: bytes) -> tuple[bytes, ...]:
    """The inverse of `pack`; the input is trusted."""
    lengths, _, body = zlib.decompress(packed).partition(b"\n")
    return cut(body, lengths)


def cut(body: bytes, lengths: bytes) -> tuple[bytes, ...]:
    """Values that were concatenated, by their lengths (`3,0,12`); the input is trusted.

    The lengths are nearly a format of `struct`, which cuts five times as fast as slices do.
    """
    # Not by the module's function, which would keep the last hundred formats.
    return Struct(lengths.replace(b",", b"s") + b"s").unpack(body)


def pack_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """The same entries in fewer rows; one that has no neighbours stays as it is. None of `rows` is packed."""
    values = [value for _, (_, value) in rows]
    sizes = list(accumulate(map(len, values), initial=0))
    start = 0
    while start < len(rows):
        fitting = bisect_right(sizes, sizes[start] + _RUN_BYTES) - 1
        end = max(start + 1, min(fitting, _end_of_run(rows, start)))
        last_id, fields = rows[end - 1]
        yield last_id, fields if end - start == 1 else (PACKED, pack(values[start:end]))
        start = end


def _end_of_run(rows: Sequence[Row], start: int) -> int:
    """Where the ids do not follow those from `start` on any more. They ascend, so that once they do not, none does."""
    attempt, seq = EntryId.parse(rows[start][0])

    def is_beyond(at: int) -> bool:
        return rows[at][0] != b"%d-%d" % (attempt, seq + at - start)

    return bisect_left(range(len(rows)), x=True, lo=start, key=is_beyond)


def unpack_rows(rows: Iterable[Row], low: EntryId, count: int | None = None) -> list[Entry]:
    """The first `count` entries at or above `low`, or all of them, of rows of either kind."""
    entries = list[Entry]()
    for last_id, (kind, content) in rows:
        attempt, seq = last = EntryId.parse(last_id)
        if kind == PACKED:
            values = unpack(content)
            first = seq - len(values) + 1
            skipped = max(0, low.seq - first) if low.attempt == attempt else 0
            wanted = values[skipped : None if count is None else skipped + count - len(entries)]
            entries += [
                new_tuple(Entry, (new_tuple(EntryId, (attempt, at)), value))
                for at, value in enumerate(wanted, first + skipped)
            ]
        else:
            entries.append(Entry(last, content))
        if len(entries) == count:
            break
    return entries
