"""A child does not outlive its parent, whichever mechanism watches."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import leash

BY_KERNEL = """
import subprocess, time
from cli import leash
child = subprocess.Popen(["sleep", "60"], preexec_fn=leash.before_exec())
print(child.pid, flush=True)
time.sleep(60)
"""

BY_SHELL = """
import subprocess, time
from cli import leash
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
with leash.watch_from_shell(child.pid):
    print(child.pid, flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    """Whether a process that is not ours to reap still runs."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} outlived its parent"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(BY_KERNEL, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl"), id="kernel"),
        pytest.param(BY_SHELL, id="shell"),
    ],
)
def test_child_dies_with_its_killed_parent(script: str) -> None:
    root = Path(leash.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until_dead(child)


def test_shell_watcher_ends_without_harm_when_the_child_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        with leash.watch_from_shell(child.pid):
            pass
        assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
