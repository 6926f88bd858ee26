"""`piropiro simulator`: the OpenAI-compatible upstream simulator."""

from cli import logs
from cli.sockets import listen
from simulator import main as simulator


def run(host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    logs.configure()
    listen(host, port).close()
    simulator.run(host, port)
