"""What the user sees of the stack: progress on standard error, the banner on standard output."""

from rich.console import Console


def say(line: str) -> None:
    """Print one line about the stack's life to standard error."""
    _print(Console(stderr=True), line, style="dim")


def show(text: str) -> None:
    """Print a command's output: never wrapped, boxed or interpreted, so that it can be copied."""
    _print(Console(), text)


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False, emoji=False)
