"""The campaign reads logs on its own, compacted ones as well."""

from faults.stack import log_entries
from shared.packing import FIELD, pack_rows

ROWS = [
    (b"0-1", (FIELD, b"A{}")),
    *((b"1-%d" % seq, (FIELD, b"t%d" % seq)) for seq in range(300)),
    *((b"2-%d" % seq, (FIELD, b"x" * seq * 40)) for seq in range(50)),
    (b"18446744073709551615-18446744073709551615", (FIELD, b"D{}")),
]


def test_a_compacted_log_has_the_same_entries():
    plain = [(entry_id.decode(), value) for entry_id, (_, value) in ROWS]
    assert log_entries(ROWS) == plain
    packed = list(pack_rows(ROWS))
    assert len(packed) < 10
    assert log_entries(packed) == plain
