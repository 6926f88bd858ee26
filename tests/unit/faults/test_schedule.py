"""The same seed gives the same faults and the same chats."""

from itertools import pairwise

import pytest

from faults.chats import make_chats, readers_of
from faults.schedule import LINKS, make_schedule

SECONDS = 450.0


def schedule(seed):
    return make_schedule(seed, SECONDS, workers=3, apis=2)


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_decides_everything(seed):
    assert schedule(seed) == schedule(seed) != schedule(seed + 1)
    assert make_chats(seed, 50, SECONDS) == make_chats(seed, 50, SECONDS) != make_chats(seed + 1, 50, SECONDS)


def test_a_chat_stays_the_same_when_there_are_more():
    few, many = make_chats(1, 10, SECONDS), make_chats(1, 20, SECONDS)
    assert [chat.deltas for chat in few] == [chat.deltas for chat in many[:10]]


@pytest.mark.parametrize("seed", range(5))
def test_faults_of_one_target_do_not_overlap_and_end_in_time(seed):
    faults = schedule(seed)
    assert faults == sorted(faults, key=lambda fault: fault.at)
    for target in {fault.target for fault in faults}:
        ours = [fault for fault in faults if fault.target == target]
        assert all(first.at + first.seconds <= second.at for first, second in pairwise(ours))
    assert all(fault.at + fault.seconds <= SECONDS for fault in faults)


@pytest.mark.parametrize("seed", range(5))
def test_a_full_campaign_has_every_kind_of_fault_and_of_chat(seed):
    kinds = {fault.kind for fault in schedule(seed)}
    assert {f"worker {act}" for act in ("kill", "stop", "pause")} <= kinds
    assert {f"api {act}" for act in ("kill", "stop", "pause")} <= kinds
    assert {"redis kill", "redis pause", "simulator kill", "worker-upstream refuse"} <= kinds
    assert {kind.partition(" ")[0] for kind in kinds} >= set(LINKS)
    chats = make_chats(seed, 2000, SECONDS)
    assert {chat.fault["kind"] for chat in chats if chat.fault} >= {"cut", "stall", "truncate", "error", "status"}
    assert {chat.on_worker_loss for chat in chats} == {"restart", "continue", "fail"}
    assert readers_of(chats) > 3000
    assert sum(chat.left is not None for chat in chats) > 50


@pytest.mark.parametrize("seed", range(5))
def test_a_short_campaign_has_nearly_every_kind_of_fault(seed):
    kinds = {fault.kind for fault in make_schedule(seed, 75.0, workers=3, apis=2)}
    assert len(kinds) >= 18
