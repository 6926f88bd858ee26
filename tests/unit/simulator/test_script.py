"""How a request's script is read."""

import pytest

from simulator.errors import ApiError
from simulator.script import CutFault, Script, StatusFault, parse_script


def refused(field: object, header: bytes | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_script(field, header)
    assert caught.value.status == 400
    return caught.value


def test_no_script_is_the_default() -> None:
    assert parse_script(None, None) == parse_script({}, b"") == Script()


def test_the_body_wins_over_the_header() -> None:
    script = parse_script({"tokens": 2}, '{"tokens": 1, "text": "ピロ"}'.encode())
    assert (script.tokens, script.text) == (2, "ピロ")


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"tokns": 1}, "simulator.tokns"),
        ({"tokens": -1}, "simulator.tokens"),
        ({"ttft": "soon"}, "simulator.ttft"),
        ({"fault": {"kind": "explode"}}, "simulator.fault.kind"),
        ({"fault": [{"kind": "cut", "seconds": 1}]}, "simulator.fault[0].seconds"),
        ({"fault": {"kind": "status", "status": 200}}, "simulator.fault.status"),
        ({"extra": {"choices": []}}, "simulator.extra"),
        ({"text": "a", "deltas": ["b"]}, "simulator.deltas"),
        ("text", "simulator"),
    ],
)
def test_a_wrong_field_is_named(field: object, param: str) -> None:
    assert refused(field).param == param


def test_a_header_that_is_no_json_is_refused() -> None:
    assert "X-Simulator" in refused(None, b"{").message
    assert "X-Simulator" in refused(None, b'{"text": "\xff"}').message


def test_times_bounds_how_many_requests_suffer() -> None:
    cut, status = {"kind": "cut", "times": 2}, {"kind": "status", "times": 1}
    script = parse_script({"fault": [cut, status]}, None)
    kinds = [[type(fault) for fault in script.faults(retry)] for retry in range(3)]
    assert kinds == [[CutFault, StatusFault], [CutFault], []]


def test_a_single_fault_needs_no_list() -> None:
    assert [fault.kind for fault in parse_script({"fault": {"kind": "stall"}}, None).faults(5)] == ["stall"]


@pytest.mark.parametrize(("wait", "header"), [(1, "1"), (0.5, "0.5"), ("Wed, 21 Oct 2026 07:28:00 GMT",) * 2])
def test_retry_after_becomes_a_header(wait: object, header: str) -> None:
    fault = parse_script({"fault": {"kind": "status", "status": 429, "retry_after": wait}}, None).faults(0)[0]
    assert isinstance(fault, StatusFault)
    error = fault.error()
    assert (error.headers, error.kind) == ({"retry-after": header}, "rate_limit_error")
