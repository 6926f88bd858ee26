"""Pages whose commands and programs are run: their blocks of code, and what each of them is to print."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHAT_ID = r"chat_[a-z2-7]{20}"
END = "-- end of commands --"


@dataclass(frozen=True)
class Block:
    """Code in a `language`, and the output that the page shows for it."""

    language: str
    code: str
    output: str | None


def blocks(page: Path, *languages: str, section: str = "") -> list[Block]:
    """The page's blocks in these languages; only those of the `section` with that heading, if one is named."""
    text = page.read_text()
    if section:
        text = re.split(r"^## ", text.partition(f"\n## {section}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
        assert text, f"{page} has no section {section}"
    pattern = rf"^```({'|'.join(languages)})\n(.*?)^```\n(?:\n```output\n(.*?)^```\n)?"
    return [Block(*found) for found in re.findall(pattern, text, re.DOTALL | re.MULTILINE)]


def on_this_machine(code: str, addresses: Mapping[str, str]) -> str:
    for documented, actual in addresses.items():
        code = code.replace(documented, actual)
    return code


def check_output(block: Block, printed: str) -> None:
    expected = (block.output or "").rstrip()
    assert re.fullmatch(_as_pattern(expected), printed.rstrip()), (
        f"{block.code}\nprinted\n{printed}\ninstead of\n{expected}"
    )


def _as_pattern(output: str) -> str:
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


def opened_shell(folder: Path) -> Iterator[Shell]:
    shell = Shell(folder)
    yield shell
    shell.close()
