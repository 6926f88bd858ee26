"""The checker finds nothing in a recorded good run, and every deliberate damage to it in the right column."""

import dataclasses
import json
from pathlib import Path

import pytest

from faults.checker import Column, check, check_orphan, longest_calm
from faults.evidence import TERMINAL_ID, from_json
from faults.settings import LEFT_LIMIT, READ_FOR

RECORDED = Path(__file__).parent / "data" / "good_run.json"


def recorded(name):
    """One chat of a run that really took place."""
    return from_json(json.loads(RECORDED.read_text())[name])


@pytest.fixture(params=["plain", "restarted", "continued", "cancelled", "failed"])
def any_chat(request):
    return recorded(request.param)


@pytest.fixture
def plain():
    return recorded("plain")


@pytest.fixture
def restarted():
    return recorded("restarted")


@pytest.fixture
def continued():
    return recorded("continued")


@pytest.fixture
def cancelled():
    return recorded("cancelled")


@pytest.fixture
def failed():
    return recorded("failed")


def resumed(evidence):
    """The same, as if the upstream could go on with its answer."""
    return dataclasses.replace(evidence, is_resumable=True, responses=1)


def columns(evidence):
    return {finding.column for finding in check(evidence)}


def json_view(evidence):
    return next(view for view in evidence.views if view.format == "json")


def entry_before_the_end(evidence):
    return len(evidence.entries) - 2


def replace_data(events, place, data):
    events[place] = events[place]._replace(data=data)


def forget_last_delta(evidence):
    """Let log, replay and readers agree on an answer that lacks its last words."""
    cursor = [event.id for event in evidence.replay if event.name == "delta" and '"content"' in event.data][-1]
    evidence.entries = [entry for entry in evidence.entries if entry[0] != cursor.partition(":")[2]]
    evidence.replay = [event for event in evidence.replay if event.id != cursor]
    for view in evidence.views:
        view.events = [event for event in view.events if event.id != cursor]


def restart_of(evidence):
    return next(i for i, event in enumerate(evidence.replay) if event.name == "restart")


def test_a_good_run_is_good(any_chat):
    assert check(any_chat) == []


def test_a_good_log_that_nobody_read_is_good(any_chat):
    assert check_orphan("chat", any_chat.entries) == []


@pytest.mark.parametrize("place", [0, 3, -1])
def test_an_event_that_a_reader_did_not_get_is_lost(plain, place):
    for view in plain.views:
        del view.events[place]
    assert columns(plain) == {Column.LOST}


def test_an_event_that_came_twice_is_doubled(any_chat):
    view = any_chat.views[0]
    view.events.insert(1, view.events[0])
    assert columns(any_chat) == {Column.DOUBLED}


def test_two_events_that_changed_places_are_reordered(plain):
    events = json_view(plain).events
    events[3], events[4] = events[4], events[3]
    assert columns(plain) == {Column.REORDERED}


def test_a_byte_that_changed_is_wrong(any_chat):
    view = next(view for view in any_chat.views if len(view.events) > 1)
    replace_data(view.events, 0, view.events[0].data + "x")
    assert columns(any_chat) == {Column.WRONG}


def test_an_event_of_another_name_is_wrong(plain):
    events = json_view(plain).events
    events[2] = events[2]._replace(name="started")
    assert columns(plain) == {Column.WRONG}


def test_an_event_of_another_chat_is_wrong(plain):
    events = json_view(plain).events
    events.insert(3, events[2]._replace(id="chat_other:1-3"))
    assert Column.WRONG in columns(plain)


def test_an_event_of_an_old_attempt_after_the_restart_is_late(restarted):
    view, place = json_view(restarted), restart_of(restarted)
    old = view.events.pop(place - 1)
    view.events.insert(place + 1, old)
    assert Column.LATE in columns(restarted)


def test_an_entry_of_an_old_attempt_after_the_restart_is_late(restarted):
    attempt = int(restarted.replay[restart_of(restarted)].id.partition(":")[2].partition("-")[0])
    place = next(i for i, entry in enumerate(restarted.entries) if entry[0] == f"{attempt}-0")
    restarted.entries.insert(place + 1, (f"{attempt - 1}-9999", b"tlate"))
    assert Column.LATE in columns(restarted)


def test_an_event_after_the_end_is_noticed(plain):
    view = json_view(plain)
    view.events.append(view.events[2]._replace(id=f"{plain.chat_id}:1-9999"))
    assert {Column.LATE, Column.WRONG} <= columns(plain)


def test_a_second_terminal_entry_is_noticed(any_chat):
    any_chat.entries.append((TERMINAL_ID, b"X{}"))
    assert Column.TERMINALS in columns(any_chat)


def test_a_terminal_entry_that_others_can_follow_is_noticed(plain):
    plain.entries.insert(entry_before_the_end(plain), ("1-9998", b"X{}"))
    assert Column.TERMINALS in columns(plain)


def test_a_hole_in_the_log_is_a_loss(plain):
    del plain.entries[4]
    assert Column.LOST in columns(plain)


def test_an_attempt_without_its_beginning_is_a_loss(restarted):
    restarted.entries = [entry for entry in restarted.entries if entry[0] != "2-0"]
    assert Column.LOST in columns(restarted)


def test_a_log_without_an_end_is_stuck(any_chat):
    del any_chat.entries[-1]
    assert columns(any_chat) == {Column.STUCK}


def test_a_reader_without_an_end_is_stuck(plain):
    view = plain.views[0]
    del view.events[4:]
    view.is_ended = False
    assert columns(plain) == {Column.STUCK}


def test_a_chat_that_nobody_can_read_again_is_stuck(any_chat):
    any_chat.replay = []
    assert columns(any_chat) == {Column.STUCK}


def test_a_chat_that_was_never_accepted_is_stuck(plain):
    plain.chat_id = None
    assert columns(plain) == {Column.STUCK}


@pytest.mark.parametrize("status", [404, 410, 204])
def test_a_reader_that_is_told_that_its_place_is_gone_has_lost_it(plain, status):
    plain.views[0].refusals.append(f"{status} after 1-3")
    assert columns(plain) == {Column.LOST}


def test_done_with_a_truncated_answer_is_wrong(plain):
    forget_last_delta(plain)
    assert Column.WRONG in columns(plain)


def test_an_answer_that_begins_again_without_a_word_is_wrong(continued):
    said = [place for place, event in enumerate(continued.replay) if '"content":"' in event.data]
    replace_data(continued.replay, said[-1], continued.replay[said[1]].data)
    assert Column.WRONG in columns(continued)


def test_done_where_the_upstream_never_finished_is_noticed(plain):
    plain.plan = dataclasses.replace(plain.plan, fault={"kind": "truncate", "after": 3})
    assert columns(plain) == {Column.END}


def test_done_by_a_request_that_failed_is_noticed(plain):
    plain.plan = dataclasses.replace(plain.plan, fault={"kind": "cut", "after": 3, "times": 2})
    plain.requests = 2
    assert columns(plain) == {Column.END}


def test_an_end_that_nothing_explains_is_noticed(failed):
    failed.plan = dataclasses.replace(failed.plan, fault=None)
    assert columns(failed) == {Column.END}


def test_giving_up_too_early_is_noticed(failed):
    failed.failures = 0
    assert columns(failed) == {Column.END}


def test_more_failed_attempts_than_allowed_are_noticed(any_chat):
    any_chat.failures = 3
    assert Column.END in columns(any_chat)


def test_cancelled_without_a_cancel_is_noticed(cancelled):
    cancelled.cancels_sent, cancelled.cancel_statuses = 0, []
    cancelled.plan = dataclasses.replace(cancelled.plan, on_disconnect="keep")
    assert columns(cancelled) == {Column.END}


def test_a_chat_that_goes_on_after_its_cancel_is_noticed(cancelled):
    cancelled.cancel_statuses = ["running"]
    assert columns(cancelled) == {Column.END}


def test_deltas_after_cancelled_are_noticed(cancelled):
    view = next(view for view in cancelled.views if view.events)
    last = view.events[-1]
    view.events.append(last._replace(id=f"{cancelled.chat_id}:1-9999", name="", data="x"))
    assert {Column.LATE, Column.WRONG} <= columns(cancelled)


@pytest.mark.parametrize(
    ("name", "value"), [("status", "running"), ("text", "x"), ("attempts", 9), ("cursor", ""), ("usage", {})]
)
def test_a_description_that_contradicts_the_log_is_noticed(any_chat, name, value):
    any_chat.chat[name] = value
    assert columns(any_chat) == {Column.END}


def test_a_chat_that_was_to_fail_and_went_on_is_noticed(restarted):
    restarted.plan = dataclasses.replace(restarted.plan, on_worker_loss="fail")
    assert Column.END in columns(restarted)


def test_a_chat_that_was_to_continue_and_restarted_is_wrong(restarted):
    restarted.plan = dataclasses.replace(restarted.plan, on_worker_loss="continue")
    assert Column.WRONG in columns(restarted)


def test_two_chats_of_one_key_are_noticed(plain):
    plain.posted_ids.append("chat_other")
    assert columns(plain) == {Column.TWICE}


def test_a_generation_too_many_is_noticed(plain):
    plain.requests = 4
    assert columns(plain) == {Column.TWICE}


def test_done_after_a_cut_behind_the_finish_reason_is_good(plain):
    plain.plan = dataclasses.replace(plain.plan, fault={"kind": "cut", "after": len(plain.plan.deltas) + 1})
    assert check(plain) == []
    plain.plan = dataclasses.replace(plain.plan, fault={"kind": "cut", "after": len(plain.plan.deltas)})
    assert columns(plain) == {Column.END}


def test_done_after_a_cut_behind_the_rest_of_a_continued_answer_is_good(continued):
    said = 0
    for event in continued.replay:
        says = event.name == "delta" and json.loads(event.data).get("content")
        said = 0 if event.name == "started" else said + bool(says)
    assert said < len(continued.plan.deltas)
    continued.plan = dataclasses.replace(continued.plan, fault={"kind": "cut", "after": said + 1})
    assert check(continued) == []
    continued.plan = dataclasses.replace(continued.plan, fault={"kind": "cut", "after": said})
    assert columns(continued) == {Column.END}


def test_what_a_dead_upstream_forgot_is_not_held_against_anyone(plain):
    plain.plan = dataclasses.replace(plain.plan, fault={"kind": "cut", "after": 3, "times": 2})
    plain.requests = None
    assert check(plain) == []


@pytest.fixture
def left(cancelled):
    """A chat that was cancelled because its only reader had left."""
    finished = cancelled.chat["finished_at"]
    cancelled.plan = dataclasses.replace(cancelled.plan, on_disconnect="cancel", left=1.0)
    cancelled.cancels_sent, cancelled.cancel_statuses = 0, []
    cancelled.left_at = finished - 4.0
    cancelled.views[0].connections = [(finished - 20.0, finished - 4.0)]
    return cancelled


def test_a_chat_that_ends_soon_after_its_last_reader_left_is_good(left):
    assert check(left) == []


def test_a_chat_that_goes_on_after_its_last_reader_left_is_noticed(left):
    left.left_at -= LEFT_LIMIT
    assert columns(left) == {Column.LEAVING}


def test_a_chat_that_goes_on_after_it_was_left_may_be_excused_by_faults(left):
    left.left_at -= LEFT_LIMIT
    left.disturbed = [(left.left_at + LEFT_LIMIT - 1.0, left.left_at + LEFT_LIMIT + 1.0)]
    assert check(left) == []


def test_a_chat_that_nobody_had_begun_to_read_was_not_left(left):
    left.left_at -= LEFT_LIMIT
    left.views[0].connections = []
    assert check(left) == []


def test_a_chat_that_ends_as_left_while_it_is_read_is_noticed(left):
    finished = left.chat["finished_at"]
    left.views[0].connections = [(finished - READ_FOR - 1.0, finished + 0.1)]
    assert columns(left) == {Column.LEAVING}
    left.disturbed = [(finished - 1.0, finished)]
    assert check(left) == []


@pytest.mark.parametrize(
    ("disturbed", "longest"),
    [
        ([], 10.0),
        ([(-5.0, 2.0)], 8.0),
        ([(9.0, 99.0)], 9.0),
        ([(3.0, 4.0)], 6.0),
        ([(6.0, 7.0), (3.0, 4.0)], 3.0),
        ([(2.0, 8.0), (3.0, 4.0)], 2.0),
        ([(-1.0, 11.0)], 0.0),
    ],
)
def test_the_longest_calm_lies_between_faults(disturbed, longest):
    assert longest_calm((0.0, 10.0), disturbed) == longest


def test_an_upstream_that_can_go_on_begins_one_answer(plain):
    keyed = dataclasses.replace(plain, plan=dataclasses.replace(plain.plan, is_keyed=True, fault=None))
    assert columns(resumed(keyed)) == set()
    assert columns(dataclasses.replace(resumed(keyed), responses=2)) == {Column.TWICE}


def test_an_attempt_that_goes_on_needs_no_restart_only_with_such_an_upstream(continued):
    restarting = dataclasses.replace(continued, plan=dataclasses.replace(continued.plan, on_worker_loss="restart"))
    assert columns(restarting) == {Column.WRONG}
    assert columns(resumed(restarting)) == set()
