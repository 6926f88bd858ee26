"""`piropiro worker`: one worker, after the checks of its surroundings."""

from pathlib import Path

from cli import logs
from cli.failure import StartFailed
from cli.preflight import check_redis, read_settings
from cli.upstream import with_upstream
from worker.main import run as work


def run(simulator: str | None, alive_file: Path | None) -> None:
    """Work until SIGINT or SIGTERM."""
    logs.configure()
    settings = with_upstream(read_settings(), simulator)
    check_redis(settings)
    if alive_file is not None:
        _check_writable(alive_file)
    work(settings, alive_file)


def _check_writable(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise StartFailed(f"bad option: --alive-file: cannot write {file} ({error.strerror})", exit_status=2) from None
