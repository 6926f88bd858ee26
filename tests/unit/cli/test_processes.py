"""Children: restarted when they die, given up when that does not help, stopped in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness.polling import wait_until

from cli import processes
from cli.failure import StartFailed
from cli.processes import Child, Program, Stack, describe

STUBBORN = "trap '' TERM; touch {file}; while :; do sleep 0.05; done"


def shell(script: str, *, name: str = "child", grace: float = 5, log: Path | None = None) -> Program:
    return Program(name, ["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, grace, log=log)


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(child.run())
    try:
        yield task
    finally:
        child.kill()
        await asyncio.wait((task,))


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_DELAY", 0.01)


async def test_dead_child_is_restarted(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    script = f"[ -e {first} ] && touch {second} && exec sleep 60; touch {first}; kill -9 $$"
    async with running(Child(shell(script))) as task:
        await wait_until(second.exists)
        assert not task.done()


async def test_child_that_dies_at_once_several_times_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child(shell(f"echo why >> {log}; exit 3", name="worker-1", log=log))
    with pytest.raises(StartFailed, match=r"worker-1 ended \(exit status 3\) 4 times in a row: why"):
        await asyncio.wait_for(child.run(), 10)
    assert log.read_text().splitlines() == ["why"] * processes.STARTS


async def test_missing_program_is_a_failed_start() -> None:
    with pytest.raises(StartFailed, match="cannot start child"):
        await Child(Program("child", ["/no/such/program"], {}, 1)).run()


async def test_stop_ends_the_child() -> None:
    child = Child(shell("exec sleep 60"))
    async with running(child) as task:
        child.stop()
        await asyncio.wait_for(task, 5)


async def test_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    file = tmp_path / "trapped"
    child = Child(shell(STUBBORN.format(file=file), grace=0.1))
    async with running(child) as task:
        await wait_until(file.exists)
        child.stop()
        await asyncio.wait_for(task, 5)


async def test_kill_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    file = tmp_path / "trapped"
    stack = Stack()
    stack.start(shell(STUBBORN.format(file=file), grace=3600))
    await wait_until(file.exists)
    stack.kill()
    await asyncio.wait_for(stack.stop(), 5)


async def test_tiers_stop_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    stack = Stack()
    for name in ("redis", "worker", "api"):
        ready = tmp_path / name
        stack.start(shell(f"trap 'echo {name} >> {order}; exit' TERM; touch {ready}; while :; do sleep 0.01; done"))
        await wait_until(ready.exists)
    await asyncio.wait_for(stack.stop(), 10)
    assert order.read_text().split() == ["api", "worker", "redis"]


async def test_stack_gives_up_with_its_child() -> None:
    stack = Stack()
    stack.start(shell("exec sleep 60"), shell("exit 1"))
    with pytest.raises(StartFailed, match="exit status 1"):
        await asyncio.wait_for(stack.given_up, 10)
    await asyncio.wait_for(stack.stop(), 10)


def test_status_in_words() -> None:
    assert (describe(2), describe(-9)) == ("exit status 2", "killed by SIGKILL")
