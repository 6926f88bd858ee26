"""What is shown reads the same on a terminal of any encoding."""

import io
import json
import shlex
import sys

import pytest

from cli.banner import BODY, curl
from cli.terminal import show


def shown(encoding: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    show(curl("http://127.0.0.1:8000"))
    return output.getvalue()


def test_command_is_shown_as_it_is_in_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "やっほ".encode() in shown("utf-8", monkeypatch)


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "euc_jp", "shift_jis"])
def test_command_means_the_same_in_other_encodings(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, body, _ = shlex.split(shown(encoding, monkeypatch).decode("ascii"))
    assert json.loads(body) == json.loads(BODY)
