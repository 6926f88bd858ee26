"""Listening sockets: what is wrong with a port is said in one line."""

import pytest

from cli.failure import StartFailed
from cli.sockets import http_url, listen, port_of


def test_port_zero_picks_a_free_one() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert port_of(listener) > 0


def test_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(StartFailed, match=f"port {port_of(listener)} .*--port"):
        listen("127.0.0.1", port_of(listener))


def test_port_beyond_the_last_does_not_wrap_around() -> None:
    with pytest.raises(StartFailed, match="port 65536 does not exist"):
        listen("127.0.0.1", 65536)


def test_foreign_address_is_refused() -> None:
    with pytest.raises(StartFailed, match="--host"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_url_reaches_the_server_from_this_machine(host: str, url: str) -> None:
    assert http_url(host, 80) == url
