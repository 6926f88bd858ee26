"""`piropiro api`: one API replica, after the checks of its surroundings."""

from collections.abc import Sequence

from api.main import create_app
from cli import logs
from cli.preflight import check_redis, read_settings
from cli.serving import open_listeners, serve
from cli.upstream import with_upstream


def run(host: str, port: int, inherited: Sequence[int], simulator: str | None) -> None:
    """Serve until SIGINT or SIGTERM."""
    logs.configure()
    settings = with_upstream(read_settings(), simulator)
    listeners = open_listeners(host, port, inherited)
    check_redis(settings)
    serve(create_app(settings), host, listeners)
