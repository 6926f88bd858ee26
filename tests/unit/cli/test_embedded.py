"""The choice of the embedded server."""

from pathlib import Path

import pytest

from cli import embedded
from cli.failure import StartFailed


def binary(folder: Path, name: str, version_line: str) -> None:
    """A program that only knows `--version`."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    path.chmod(0o755)


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the wheel, and the only folder on its PATH."""
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_wheel_brings_a_server_that_runs() -> None:
    assert embedded.find_server().title.startswith("Valkey 9.")


def test_server_on_path_stands_in(no_wheel: Path) -> None:
    binary(no_wheel, "redis-server", "Redis server v=7.0.15 sha=0")
    assert embedded.find_server() == embedded.Server(str(no_wheel / "redis-server"), "Redis 7.0.15")


def test_old_server_is_passed_over(no_wheel: Path) -> None:
    binary(no_wheel, "valkey-server", "Redis server v=6.2.0 sha=0")
    with pytest.raises(StartFailed, match="or set REDIS_URL"):
        embedded.find_server()


def test_binary_of_another_machine_is_passed_over(no_wheel: Path) -> None:
    (no_wheel / "valkey-server").write_bytes(b"\x7fELF of another machine")
    (no_wheel / "valkey-server").chmod(0o755)
    binary(no_wheel, "redis-server", "Redis server v=8.0.1 sha=0")
    assert embedded.find_server().title == "Redis 8.0.1"


def test_server_keeps_nothing_on_disk_and_listens_on_loopback(tmp_path: Path) -> None:
    command = embedded.command(embedded.Server("valkey-server", ""), 7000, tmp_path, tmp_path / "log")
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--save"], options["--appendonly"], options["--bind"]) == ("", "no", "127.0.0.1")
