"""The campaign finds bugs: a short one against products that have one each, and against the product itself."""

import dataclasses
import sys
from pathlib import Path

import pytest

from faults.campaign import Plan, run
from faults.chats import ChatPlan, ReaderPlan
from faults.checker import Column
from faults.report import counts
from faults.schedule import Act, Fault
from faults.stack import PRODUCT

MUTANTS = str(Path(__file__).parent / "mutants.py")
LEASE = 1.0
SETTINGS = {"PIROPIRO_LEASE": str(LEASE), "PIROPIRO_STALL_TIMEOUT": "20"}

STEADY = ReaderPlan(format="json", delay=0.0, cut_every=None, pause=0.0, resumes_by="header")
CUTTING = dataclasses.replace(STEADY, format="text", cut_every=500, delay=0.5)
CHAT = ChatPlan(
    number=0,
    at=0.0,
    deltas=tuple(f"{position} " for position in range(80)),
    ttft=0.0,
    interval=0.05,
    fault=None,
    on_worker_loss="restart",
    on_disconnect="keep",
    is_keyed=True,
    is_streamed=False,
    echo=None,
    cancel=None,
    readers=(STEADY, CUTTING),
)
TRUNCATED = {"fault": {"kind": "truncate", "after": 10}}
ECHOED = {"echo": 0.5}
CONTINUED = {"on_worker_loss": "continue"}
WATCHED = {"on_disconnect": "cancel", "readers": (STEADY,), "interval": 0.1}
LEFT = {**WATCHED, "left": 0.5, "interval": 0.15}

PAUSE = Fault(1.0, "worker0", Act.PAUSE, LEASE + 1.5)
KILL = Fault(1.0, "worker0", Act.KILL, 0.5)
SLOW_LINK = Fault(0.1, "api-redis", Act.DELAY, 4.0, 0.2)
REDIS_HANGS = Fault(1.0, "redis", Act.PAUSE, 4.0)

BUGS = {
    "unfenced": ({}, PAUSE, {Column.WRONG}),
    "deaf-tail": ({}, SLOW_LINK, {Column.LOST}),
    "inclusive-cursor": ({}, None, {Column.DOUBLED}),
    "truncated-is-done": (TRUNCATED, None, {Column.WRONG, Column.END}),
    "no-takeover": ({}, KILL, {Column.STUCK}),
    "forgotten-key": (ECHOED, None, {Column.TWICE}),
    "half-continued": (CONTINUED, KILL, {Column.WRONG}),
    "never-left": (LEFT, None, {Column.LEAVING}),
    "left-at-once": (WATCHED, None, {Column.LEAVING}),
    "patient": ({}, REDIS_HANGS, {Column.SLOW}),
}


def chats(count, first=0, **changes):
    numbers = range(first, first + count)
    return [dataclasses.replace(CHAT, number=number, at=number * 0.05, **changes) for number in numbers]


def campaign(chats, schedule, *, product=PRODUCT, settle=20.0, tidy=10.0, open_at_once=100):
    return Plan(
        seed=1,
        chats=chats,
        schedule=schedule,
        seconds=5.0,
        apis=1,
        workers=2,
        settle=settle,
        tidy=tidy,
        product=product,
        settings=SETTINGS,
        open_at_once=open_at_once,
        is_quiet=True,
    )


@pytest.mark.timeout(150)
@pytest.mark.parametrize("bug", BUGS)
async def test_a_bug_is_found(bug, tmp_path, capsys):
    changes, fault, columns = BUGS[bug]
    plan = campaign(chats(8, **changes), [fault] if fault else [], product=(MUTANTS, bug), settle=9.0, tidy=1.0)
    outcome = await run(plan, tmp_path)
    caught = ", ".join(f"{column} ({count})" for column, count in counts(outcome.findings).items() if count)
    with capsys.disabled():
        sys.stdout.write(f"\n{bug} is caught by: {caught or 'nothing'} ")
    assert columns <= outcome.columns(), outcome.table()
    assert outcome.tally.chats == len(plan.chats)
    assert (tmp_path / "findings.txt").read_text()


@pytest.mark.timeout(150)
async def test_the_product_itself_has_none_of_them(tmp_path):
    kinds = [{}, TRUNCATED, {**ECHOED, **CONTINUED}, WATCHED, LEFT]
    ours = [chat for number, kind in enumerate(kinds) for chat in chats(4, 4 * number, **kind)]
    schedule = [SLOW_LINK, KILL, dataclasses.replace(PAUSE, target="worker1"), dataclasses.replace(REDIS_HANGS, at=5.0)]
    outcome = await run(campaign(ours, schedule, open_at_once=14), tmp_path)
    assert outcome.findings == [], outcome.table()
    assert outcome.tally.most_open == 14
    assert outcome.tally.waited > 0
