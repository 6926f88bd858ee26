"""What the failover scenario believes of a reader whose chat's log was forgotten afterwards."""

import pytest

from faults.evidence import View
from faults.failover import has_all
from faults.sse import Event

END = "18446744073709551615-18446744073709551615"


def view(*events, is_ended=True):
    ids = [(id_ and f"chat_x:{id_}", name, data) for id_, name, data in events]
    return View("reader", "text", events=[Event(*event) for event in ids], is_ended=is_ended)


WHOLE = (("1-1", "", "a"), ("1-2", "", "b"), (END, "done", "[DONE]"))


def test_a_whole_answer_is_all():
    assert has_all(view(*WHOLE), "ab")


def test_a_restart_begins_anew():
    assert has_all(view(("1-1", "", "a"), ("2-0", "restart", ""), ("2-1", "", "ab"), WHOLE[-1]), "ab")


def test_deltas_of_json_count_as_text():
    assert has_all(view(("1-1", "delta", '{"content":"ab"}'), ("1-2", "delta", "{}"), WHOLE[-1]), "ab")


@pytest.mark.parametrize(
    "events",
    [
        (WHOLE[0], WHOLE[0], WHOLE[1], WHOLE[2]),
        (WHOLE[1], WHOLE[0], WHOLE[2]),
        (WHOLE[0], WHOLE[2]),
    ],
    ids=["doubled", "reordered", "lost"],
)
def test_anything_else_is_not(events):
    assert not has_all(view(*events), "ab")


def test_without_an_end_it_is_not():
    assert not has_all(view(*WHOLE[:2], is_ended=False), "ab")
