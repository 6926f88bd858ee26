"""Runs an ASGI app under uvicorn, on a port or on listening sockets inherited from the parent."""

import logging
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from cli.failure import StartFailed
from cli.sockets import http_url, listen, port_of

# Our apps end their streams by themselves; this bounds what is still left of a slow request.
GRACEFUL_SHUTDOWN = 5

logger = logging.getLogger(__name__)


def open_listeners(host: str, port: int, inherited: Sequence[int]) -> list[socket.socket]:
    """The inherited sockets (file descriptors), or else a new one on host and port.

    Raises:
        StartFailed: the port cannot be had.
    """
    return [socket.socket(fileno=fd) for fd in inherited] or [listen(host, port)]


def serve(app: Callable[..., Any], host: str, listeners: Sequence[socket.socket]) -> None:
    """Serve until SIGINT or SIGTERM; logs go where the process's logs go.

    Raises:
        StartFailed: the app's own start-up failed, and has logged why.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signal again once it has shut down: end with status 0 then.
        signal.signal(number, lambda *_: None)
    logger.info("serving on %s", http_url(host, port_of(listeners[0])))
    server.run(sockets=list(listeners))
    if not server.started:
        raise StartFailed("the server did not start: the lines above say why")
