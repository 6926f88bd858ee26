"""`piropiro worker`: one worker, after the checks of its surroundings."""

from cli import logs
from cli.preflight import check_redis, read_settings
from worker import main as worker


def run() -> None:
    """Work until SIGINT or SIGTERM."""
    logs.configure()
    check_redis(read_settings())
    worker.run()
