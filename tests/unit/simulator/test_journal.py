"""What the simulator remembers."""

import json

from simulator.journal import Journal


def test_requests_of_a_key_are_counted() -> None:
    journal = Journal()
    assert [journal.count(key) for key in "aabab"] == [0, 1, 0, 2, 1]


def test_memory_is_bounded() -> None:
    journal = Journal()
    for number in range(10_001):
        journal.count(str(number))
        journal.open(str(number), {})
    assert journal.count("0") == 0
    assert journal.count("10000") == 1
    records = json.loads(journal.encode())
    assert (len(records), records[-1]["key"]) == (1_000, "10000")


def test_the_first_outcome_stands() -> None:
    journal = Journal()
    record = journal.open("k", {"authorization": True})
    record.close("finished")
    record.close("client_closed")
    (stored,) = json.loads(journal.encode())
    assert (stored["outcome"], stored["headers"]) == ("finished", {"authorization": True})
    assert stored["closed_at"] >= stored["started"]


def test_clearing_forgets_keys_too() -> None:
    journal = Journal()
    journal.open("k", {})
    journal.count("k")
    journal.clear()
    assert (json.loads(journal.encode()), journal.count("k")) == ([], 0)


def test_the_requests_of_one_key_can_be_told_apart() -> None:
    journal = Journal()
    for key in "aba":
        journal.open(key, {})
    assert [record["key"] for record in json.loads(journal.encode("a"))] == ["a", "a"]
