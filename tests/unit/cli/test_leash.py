"""A child does not outlive its parent, whichever mechanism watches."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness.polling import block_until

from cli import leash

BY_KERNEL = """
import signal, subprocess
from cli import leash
child = subprocess.Popen(["sleep", "60"], preexec_fn=leash.before_exec())
print(child.pid, flush=True)
signal.pause()
"""

BY_SHELL = """
import signal, subprocess
from cli import leash
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
with leash.watch_from_shell(child.pid):
    print(child.pid, flush=True)
    signal.pause()
"""


def is_alive(pid: int) -> bool:
    """Whether a process that is not ours to reap still runs; `ps` only where there is no /proc."""
    if Path("/proc/self/stat").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


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
    block_until(lambda: not is_alive(child))


def test_shell_watcher_ends_without_harm_when_the_child_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        with leash.watch_from_shell(child.pid):
            pass
        assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
