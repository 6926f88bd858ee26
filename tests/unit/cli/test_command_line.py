"""The command line itself: help, version, and what it costs to ask."""

import importlib.metadata
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[3]
HEAVY = ("fastapi", "uvicorn", "arq", "aiohttp", "redis", "pydantic")


@pytest.mark.parametrize("command", ["up", "api", "worker", "simulator"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Run " in result.output


def test_no_command_is_a_question_for_help() -> None:
    assert "simulator" in CliRunner().invoke(app, []).output


def test_version_is_shown() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.startswith("piropiro ")


def test_version_of_a_checkout_that_is_not_installed_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    assert re.fullmatch(r"piropiro \d+\.\d+\.\d+\n", CliRunner().invoke(app, ["--version"]).output)


@pytest.mark.parametrize(("arguments", "named"), [(["--prot", "1"], "--prot"), (["--port", "x"], "--port")])
def test_bad_option_is_named(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(app, ["up", *arguments])
    assert result.exit_code == 2
    assert named in result.output


def test_incomplete_installation_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('gone', name='typer')")
    command = [sys.executable, "-m", "cli", "up"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    failed = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "piropiro: the installation lacks typer: run `make clean`, then try again\n"


def test_help_imports_nothing_heavy() -> None:
    script = f"import sys, cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
