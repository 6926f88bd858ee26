"""The shipped configuration of HAProxy, as the deploy uses it on one machine."""

import pytest
from harness.processes import ROOT

from faults.deploy import localise

SHIPPED = (ROOT / "deploy" / "haproxy.cfg").read_text()


@pytest.fixture
def lines():
    return localise(SHIPPED, 1000, 2000, [3000, 3001]).splitlines()


def test_replicas_are_named(lines):
    servers = [line.split() for line in lines if line.lstrip().startswith("server ")]
    assert servers == [["server", f"replica{n}", f"127.0.0.1:300{n}", "check"] for n in (0, 1)]


def test_nothing_of_docker_is_left(lines):
    assert not any("resolve" in line for line in lines if not line.lstrip().startswith("#"))


def test_it_listens_here_alone(lines):
    assert [line.strip() for line in lines if "bind " in line] == ["bind 127.0.0.1:1000", "bind 127.0.0.1:2000"]


def test_all_else_is_as_shipped(lines):
    shipped = {line for line in SHIPPED.splitlines() if "bind" not in line and "resolve" not in line}
    kept = shipped - set(lines)
    assert all(
        line.startswith("    ") and line.split()[0] in ("nameserver", "accepted_payload_size", "timeout", "hold")
        for line in kept
    )
