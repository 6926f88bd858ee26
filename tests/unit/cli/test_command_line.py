"""The command line itself: help, version, and what it costs to ask."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cli.main import app

HEAVY = ("fastapi", "uvicorn", "arq", "openai", "redis", "pydantic")


@pytest.mark.parametrize("command", ["up", "api", "worker", "simulator"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Run " in result.output


def test_no_command_is_a_question_for_help() -> None:
    assert "simulator" in CliRunner().invoke(app, []).output


def test_version_is_shown() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.startswith("piropiro ")


def test_help_imports_nothing_heavy() -> None:
    script = f"import sys, cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
