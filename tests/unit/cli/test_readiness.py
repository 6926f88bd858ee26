"""Who answers on a port: one of ours, another program, or nobody."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cli import readiness
from cli.readiness import is_piropiro
from cli.sockets import free_port, port_of


@contextmanager
def http_server(body: bytes) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"openapi":"3.1.0","info":{"title":"Piropiro","version":"0.1.0"}}', True), (b'{"title":"Other"}', False)],
)
def test_api_is_known_by_its_reference(body: bytes, expected: bool) -> None:
    with http_server(body) as port:
        assert is_piropiro("127.0.0.1", port) is expected


def test_silence_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "IDENTITY_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not is_piropiro("127.0.0.1", port_of(silent))


def test_nobody_is_not_ours() -> None:
    assert not is_piropiro("127.0.0.1", free_port())
