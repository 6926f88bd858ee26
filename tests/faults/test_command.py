"""The command itself: what it leaves behind, and how it says whether all was well."""

import asyncio
import signal
import sys

import pytest

from faults.processes import ROOT

FEW = ("--chats", "5", "--minutes", "0.2")


async def start(folder, *arguments):
    command = (sys.executable, "-m", "faults", *FEW, "--folder", str(folder), *arguments)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe, preexec_fn=_hear)


def _hear():
    """What a shell starts in the background does not hear Ctrl-C, nor do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


async def processes():
    """Every process's pid, and its parent's."""
    ps = await asyncio.create_subprocess_exec("ps", "-A", "-o", "pid=,ppid=", stdout=asyncio.subprocess.PIPE)
    output, _ = await ps.communicate()
    return {int(pid): int(parent) for pid, parent in map(str.split, output.decode().splitlines())}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 130),
        pytest.param(
            signal.SIGKILL, -9, marks=pytest.mark.skipif(sys.platform != "linux", reason="nobody else kills for us")
        ),
    ],
)
async def test_whatever_ends_it_leaves_no_process_behind(tmp_path, number, status):
    campaign = await start(tmp_path)
    try:
        while b"chats ended" not in (line := await campaign.stdout.readline()):
            assert line, (await campaign.stderr.read()).decode()
        children = [pid for pid, parent in (await processes()).items() if parent == campaign.pid]
        assert len(children) >= 7
        campaign.send_signal(number)
        _, errors = await asyncio.wait_for(campaign.communicate(), 20)
    finally:
        if campaign.returncode is None:
            campaign.kill()
    assert campaign.returncode == status
    assert number is signal.SIGKILL or str(tmp_path) in errors.decode()
    async with asyncio.timeout(5):
        while not (await processes()).keys().isdisjoint(children):
            await asyncio.sleep(0.1)


@pytest.mark.timeout(120)
async def test_a_good_run_exits_with_0_and_leaves_its_table(tmp_path):
    campaign = await start(tmp_path)
    output, errors = await campaign.communicate()
    assert (campaign.returncode, errors) == (0, b""), output.decode()
    assert (tmp_path / "table.md").read_text() in output.decode()
