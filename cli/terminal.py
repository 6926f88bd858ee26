"""What the user sees of the stack: its progress on standard error, the banner on standard output."""

import codecs
import contextlib
import os
import sys
from typing import TextIO

import typer


def say(line: str) -> None:
    """Print one line about the stack's life to standard error."""
    _print(line, sys.stderr, dim=os.environ.get("TERM") != "dumb" or None)


def show(text: str) -> None:
    """Print a command's output as it is, so that it can be copied."""
    _print(text, sys.stdout)


def printable(text: str, encoding: str) -> str:
    r"""With `\u` escapes unless the encoding is UTF-8: in the JSON of the command to paste they mean the same."""
    return text if codecs.lookup(encoding).name == "utf-8" else text.encode("ascii", "backslashreplace").decode()


def _print(text: str, stream: TextIO, *, dim: bool | None = None) -> None:
    # The terminal may be gone (SIGHUP), or the reader of a pipe: neither may keep us from stopping the stack.
    with contextlib.suppress(OSError):
        typer.secho(printable(text, stream.encoding), file=stream, dim=dim)
