"""`docs/tour.md`, command by command: each prints what the page says that it prints."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from harness.programs import NEEDS_CURL, NEEDS_REDIS_CLI

TOUR = Path(__file__).parents[2] / "docs" / "tour.md"
CHAT_ID = r"chat_[a-z2-7]{20}"
END = "-- end of commands --"

pytestmark = [NEEDS_CURL, NEEDS_REDIS_CLI, pytest.mark.timeout(120)]


def steps(page: str) -> Iterator[tuple[str, str | None]]:
    """Each block of commands, and the output that the page shows for it."""
    for found in re.finditer(r"```sh\n(.*?)```\n(?:\n```output\n(.*?)```\n)?", page, re.DOTALL):
        yield found[1], found[2]


def as_pattern(output: str) -> str:
    """What matches the output, whatever the chat's id is and `…` stands for: part of a line, or alone some lines."""
    lines = (r"(?s:.*)" if line == "…" else re.escape(line).replace("…", ".*") for line in output.splitlines())
    return re.sub(CHAT_ID, lambda _: CHAT_ID, "\n".join(lines))


class Shell:
    """One bash, which keeps its variables from step to step."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            text=True,
        )

    def run(self, commands: str) -> str:
        """Run a block; what it printed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{commands}\necho; echo '{END}'\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line.strip() == END:
                return printed
            printed += line
        raise AssertionError(f"the shell ended: {printed}")

    def close(self) -> None:
        self._process.communicate("exit\n")


@pytest.fixture
def shell(tmp_path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def on_this_machine(commands: str, addresses: Mapping[str, str]) -> str:
    for documented, actual in addresses.items():
        commands = commands.replace(documented, actual)
    return commands


def test_every_command_prints_what_the_tour_says(start_stack, shell):
    stack = start_stack(apis=2)
    addresses = {
        "http://127.0.0.1:8001": stack.apis[0].url,
        "http://127.0.0.1:8002": stack.apis[1].url,
        "redis://127.0.0.1:6379/0": stack.server.url,
    }
    tour = list(steps(TOUR.read_text()))
    assert len(tour) > 10
    for commands, expected in tour:
        printed = shell.run(on_this_machine(commands, addresses))
        assert re.fullmatch(as_pattern((expected or "").rstrip()), printed.rstrip()), (
            f"{commands}\nprinted\n{printed}\ninstead of\n{expected}"
        )
