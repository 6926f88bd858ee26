"""The campaign finds bugs: a short one against products that have one each, and against the product itself."""

import dataclasses
from pathlib import Path

import pytest

from faults.campaign import Plan, run
from faults.chats import ChatPlan, ReaderPlan
from faults.checker import Column
from faults.schedule import Act, Fault
from faults.settings import LEASE
from faults.stack import PRODUCT

MUTANTS = str(Path(__file__).parent / "mutants.py")

STEADY = ReaderPlan(format="json", delay=0.0, cut_every=None, pause=0.0, resumes_by="header")
CUTTING = dataclasses.replace(STEADY, format="text", cut_every=500, delay=0.5)
CHAT = ChatPlan(
    number=0,
    at=0.0,
    deltas=tuple(f"{position} " for position in range(120)),
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
TRUNCATED = {"kind": "truncate", "after": 10}

PAUSE = Fault(2.0, "worker0", Act.PAUSE, LEASE + 2.0)
KILL = Fault(2.0, "worker0", Act.KILL, 0.5)
SLOW_REDIS = Fault(0.1, "api-redis", Act.DELAY, 6.0, 0.2)

BUGS = {
    "unfenced": ({}, PAUSE, {Column.WRONG}),
    "deaf-tail": ({}, SLOW_REDIS, {Column.LOST}),
    "inclusive-cursor": ({}, None, {Column.DOUBLED}),
    "truncated-is-done": ({"fault": TRUNCATED}, None, {Column.WRONG, Column.END}),
    "no-takeover": ({}, KILL, {Column.STUCK}),
    "forgotten-key": ({"echo": 0.5}, None, {Column.TWICE}),
    "half-continued": ({"on_worker_loss": "continue"}, KILL, {Column.WRONG}),
}


def campaign(*, product=PRODUCT, schedule=(), settle=25.0, tidy=10.0, **changes):
    chats = [dataclasses.replace(CHAT, number=number, at=number * 0.05, **changes) for number in range(12)]
    return Plan(
        seed=1,
        chats=chats,
        schedule=schedule,
        seconds=8.0,
        apis=1,
        workers=2,
        settle=settle,
        tidy=tidy,
        product=product,
        is_quiet=True,
    )


@pytest.mark.timeout(150)
@pytest.mark.parametrize("bug", BUGS)
async def test_a_bug_is_found(bug, tmp_path):
    changes, fault, columns = BUGS[bug]
    schedule = [fault] if fault else []
    outcome = await run(campaign(product=(MUTANTS, bug), schedule=schedule, settle=12.0, tidy=1.0, **changes), tmp_path)
    assert columns <= outcome.columns(), outcome.table()
    assert outcome.tally.chats == 12
    assert (tmp_path / "findings.txt").read_text()


@pytest.mark.timeout(150)
@pytest.mark.parametrize("changes", [{}, {"fault": TRUNCATED}, {"echo": 0.5, "on_worker_loss": "continue"}], ids=str)
async def test_the_product_itself_has_none_of_them(changes, tmp_path):
    schedule = [SLOW_REDIS, KILL, dataclasses.replace(PAUSE, target="worker1")]
    outcome = await run(campaign(schedule=schedule, **changes), tmp_path)
    assert outcome.findings == [], outcome.table()
