"""The table and its figures."""

from faults.checker import Column, Finding
from faults.report import counts, latencies, percentile, report
from faults.tally import Tally


def test_percentiles_are_values_that_were_measured():
    assert [percentile([4, 1, 3, 2], percent) for percent in (50, 95, 100)] == [2, 4, 4]
    assert percentile([], 50) is None


def test_latencies_are_told_in_milliseconds():
    assert latencies([0.001, 0.002]) == "1 / 2 / 2 ms (p50 / p95 / max of 2)"
    assert latencies([]) == "none measured"


def test_a_chat_counts_once_per_column():
    findings = [Finding(Column.LOST, "a", "x"), Finding(Column.LOST, "a", "y"), Finding(Column.LOST, "b", "x")]
    assert {column: count for column, count in counts(findings).items() if count} == {Column.LOST: 2}


def test_every_column_is_in_the_table():
    table = report(Tally(), [Finding(Column.STUCK, "a", "x")])
    rows = {line.split("|")[1].strip(" *"): line.split("|")[2].strip(" *") for line in table.splitlines()}
    assert {column: rows[column] for column in Column} == {
        column: str(int(column is Column.STUCK)) for column in Column
    }
