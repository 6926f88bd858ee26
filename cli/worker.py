"""`piropiro worker`: one worker, after the checks of its surroundings."""

from cli import logs
from cli.preflight import check_redis, read_settings
from worker.main import run as work


def run() -> None:
    """Work until SIGINT or SIGTERM."""
    logs.configure()
    settings = read_settings()
    check_redis(settings)
    work(settings)
