"""What the user sees of the stack: its progress on standard error, the banner on standard output."""

import contextlib

import typer


def say(line: str) -> None:
    """Print one line about the stack's life to standard error."""
    _print(line, err=True, dim=True)


def show(text: str) -> None:
    """Print a command's output as it is, so that it can be copied."""
    _print(text)


def _print(text: str, *, err: bool = False, dim: bool | None = None) -> None:
    # The terminal may be gone (SIGHUP), or the reader of a pipe: neither may keep us from stopping the stack.
    with contextlib.suppress(OSError):
        typer.secho(text, err=err, dim=dim)
