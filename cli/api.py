"""`piropiro api`: one API replica under uvicorn."""

import logging
import signal
import socket
from collections.abc import Sequence

import uvicorn

from api.main import app
from cli import logs
from cli.failure import StartFailed
from cli.preflight import check_redis, read_settings
from cli.sockets import http_url, listen, port_of

# The app ends its streams by itself; this bounds what is still left of a slow request.
GRACEFUL_SHUTDOWN = 5

log = logging.getLogger(__name__)


def run(host: str, port: int, inherited: Sequence[int]) -> None:
    """Serve on host and port, or on the inherited listening sockets (file descriptors), until SIGINT or SIGTERM."""
    logs.configure()
    settings = read_settings()
    listeners = [socket.socket(fileno=fd) for fd in inherited] or [listen(host, port)]
    check_redis(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN,
        )
    )
    _exit_quietly_on_signals()
    if not inherited:
        log.info("serving on %s", http_url(host, port_of(listeners[0])))
    server.run(sockets=listeners)
    if not server.started:
        raise StartFailed("the API did not start: the lines above say why")


def _exit_quietly_on_signals() -> None:
    """Let uvicorn, which raises a signal again once it has shut down, end with status 0."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
