"""The folder of a stack: gone with it, and when it was killed, with the next one."""

import tempfile
from pathlib import Path

import pytest

from cli import folder
from cli.failure import StartFailed


@pytest.fixture(autouse=True)
def _own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def left_behind(tmp_path: Path, name: str = "killed") -> Path:
    """What a killed stack leaves: a folder with its server's log, which nobody holds."""
    path = tmp_path / f"{folder.PREFIX}{name}"
    path.mkdir()
    (path / folder.LOG).touch()
    return path


def test_folder_goes_with_its_stack(tmp_path: Path) -> None:
    with folder.own_folder() as own:
        (own / folder.LOG).touch()
    assert list(tmp_path.iterdir()) == []


def test_folder_of_a_killed_stack_goes_with_the_next(tmp_path: Path) -> None:
    killed = left_behind(tmp_path)
    with folder.own_folder():
        assert not killed.exists()


def test_folder_of_a_living_stack_stays() -> None:
    with folder.own_folder() as living:
        (living / folder.LOG).touch()
        with folder.own_folder():
            assert (living / folder.LOG).exists()


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    begun = tmp_path / f"{folder.PREFIX}begun"
    begun.mkdir()
    work = left_behind(tmp_path, "work")
    (work / "notes").touch()
    (tmp_path / f"{folder.PREFIX}file").touch()
    (tmp_path / f"{folder.PREFIX}link").symlink_to(work)
    before = set(tmp_path.rglob("*")) - {work / folder.LOG}
    with folder.own_folder() as own:
        assert set(tmp_path.rglob("*")) - {own} == before


def test_no_room_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(StartFailed, match="TMPDIR"), folder.own_folder():
        pass
