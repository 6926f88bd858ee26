"""`piropiro api`: one API replica, after the checks of its surroundings."""

from collections.abc import Sequence

from api.main import create_app
from cli import logs
from cli.preflight import check_redis, read_settings
from cli.serving import open_listeners, serve


def run(host: str, port: int, inherited: Sequence[int]) -> None:
    """Serve until SIGINT or SIGTERM."""
    logs.configure()
    settings = read_settings()
    listeners = open_listeners(host, port, inherited)
    check_redis(settings)
    serve(create_app(settings), host, listeners)
