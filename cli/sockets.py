"""Listening sockets, bound before anything is started, so that a port in use is found first."""

import errno
import socket

from cli.failure import StartFailed

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - maps them, binds nothing
LAST_PORT = 65535
BACKLOG = 2048


class PortInUse(StartFailed):
    """Another program listens there."""


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen; port 0 picks a free one.

    Raises:
        PortInUse: another program has it.
        StartFailed: it needs privileges or does not exist, or the host is not this machine's.
    """
    if port > LAST_PORT:  # which getaddrinfo would wrap around
        raise StartFailed(f"port {port} does not exist: choose one up to {LAST_PORT} with --port")
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        failure = PortInUse if error.errno == errno.EADDRINUSE else StartFailed
        raise failure(_why(error, host, port)) from None


def port_of(listener: socket.socket) -> int:
    """The port a socket is bound to."""
    port: int = listener.getsockname()[1]
    return port


def free_port() -> int:
    """A port of 127.0.0.1 that is free now, for a server which binds its port itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return port_of(listener)


def reachable(host: str) -> str:
    """The address that reaches a server listening on `host` from this machine."""
    return ANY_ADDRESS.get(host, host)


def http_url(host: str, port: int) -> str:
    """The URL of a server that listens on `host` and `port`, as seen from this machine."""
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what holds it, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges: choose one above 1023 with --port"
    return f"cannot listen on {host} ({error.strerror}): choose an address of this machine with --host"
