"""`piropiro simulator`: the OpenAI-compatible upstream simulator."""

from collections.abc import Sequence

from cli import logs
from cli.serving import open_listeners, serve
from simulator.main import app


def run(host: str, port: int, inherited: Sequence[int]) -> None:
    """Serve until SIGINT or SIGTERM."""
    logs.configure()
    serve(app, host, open_listeners(host, port, inherited))
