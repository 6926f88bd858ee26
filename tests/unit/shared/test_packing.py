from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cursor import ACCEPTED, MAX_PART, TERMINAL, EntryId
from shared.events import Entry
from shared.packing import FIELD, PACKED, pack, pack_rows, unpack, unpack_rows

VALUES = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\n", b",", b"t1,2\n", b"x" * 20_000]))


@st.composite
def logs(draw):
    """Rows as a log has them: any attempts, each without holes, and whatever ends it; perhaps a hole all the same."""
    rows = [(ACCEPTED, b"A{}")]
    for attempt in sorted(draw(st.sets(st.sampled_from([1, 2, 3, 1_795_363_519_001, MAX_PART]), max_size=3))):
        values = draw(st.lists(VALUES, min_size=1, max_size=50))
        hole = draw(st.integers(1, 100))
        rows += [(EntryId(attempt, seq + (seq >= hole)), value) for seq, value in enumerate(values)]
    return [*rows, (TERMINAL, b"D{}")]


def as_stored(rows):
    return [(str(entry_id).encode(), (FIELD, value)) for entry_id, value in rows]


@given(st.lists(VALUES, min_size=1))
def test_packing_loses_nothing(values):
    assert list(unpack(pack(values))) == values


@given(logs(), st.data())
def test_packed_rows_read_from_anywhere_give_the_same_entries(log, data):
    packed = list(pack_rows(as_stored(log)))
    whole = [Entry(*row) for row in log]
    assert unpack_rows(packed, ACCEPTED) == whole
    assert unpack_rows(as_stored(log), ACCEPTED) == whole
    ids = [entry.id for entry in whole]
    low = data.draw(st.sampled_from(ids) | st.builds(EntryId, st.integers(0, 4), st.integers(0, 60)))
    count = data.draw(st.integers(1, 60) | st.none())
    from_redis = [row for row in packed if EntryId.parse(row[0]) >= low]
    assert unpack_rows(from_redis, low, count) == [entry for entry in whole if entry.id >= low][:count]


@given(logs())
def test_a_packed_row_is_a_run_of_one_attempt_and_never_the_terminal_entry(log):
    packed = list(pack_rows(as_stored(log)))
    assert packed[-1] == as_stored(log)[-1]
    for before, after in pairwise(packed):
        assert EntryId.parse(before[0]) < EntryId.parse(after[0])
    for row in packed:
        ids = [entry.id for entry in unpack_rows([row], EntryId(0, 0))]
        assert {entry_id.attempt for entry_id in ids} == {EntryId.parse(row[0]).attempt}


def test_a_typical_answer_becomes_one_row_and_a_long_one_rows_of_bounded_size():
    rows = as_stored([(EntryId(1, seq), b"t word") for seq in range(500)])
    ((last, (field, content)),) = pack_rows(rows)
    assert (last, field) == (b"1-499", PACKED)
    assert len(content) < 3 * 500
    rows = as_stored([(EntryId(1, seq), b"t" * 1000) for seq in range(500)])
    assert [len(unpack(content)) for _, (_, content) in pack_rows(rows)] == [16] * 31 + [4]


@pytest.mark.parametrize("size", [16_384, 16_385, 1_000_000])
def test_a_value_as_large_as_a_run_stays_as_it_is(size):
    rows = as_stored([(EntryId(1, 0), b"S"), (EntryId(1, 1), b"c" * size), (EntryId(1, 2), b"t")])
    assert list(pack_rows(rows)) == rows
