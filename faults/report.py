"""The table at the end."""

from collections.abc import Iterable, Sequence

from faults.checker import Column, Finding
from faults.tally import Tally


def percentile(figures: Iterable[float], percent: int) -> float | None:
    """By nearest rank, so that it is a value that was measured; None if none was."""
    ordered = sorted(figures)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def latencies(figures: Sequence[float]) -> str:
    """How many, and p50, p95 and max, in milliseconds."""
    if not figures:
        return "none measured"
    p50, p95, highest = (percentile(figures, percent) or 0.0 for percent in (50, 95, 100))
    return f"{p50 * 1000:.0f} / {p95 * 1000:.0f} / {highest * 1000:.0f} ms (p50 / p95 / max of {len(figures)})"


def counts(findings: Sequence[Finding]) -> dict[Column, int]:
    """In how many chats each column is wrong."""
    return {column: len({finding.chat for finding in findings if finding.column is column}) for column in Column}


def report(tally: Tally, findings: Sequence[Finding]) -> str:
    """Everything that was counted, as one Markdown table."""
    rows = [
        ("chats", f"{tally.chats} (and {tally.orphans} that nobody read)"),
        ("of them open at once", f"{tally.most_open} at most; {tally.waited} waited for others to end"),
        ("descriptors open at once", f"{tally.most_descriptors} at most"),
        ("readers", f"{tally.readers}"),
        ("resumes", f"{tally.resumes}"),
        ("repeated POSTs", f"{tally.retried_posts}"),
        ("ended", counted(tally.ends.items())),
        ("faults", f"{sum(tally.faults.values())}: {counted(sorted(tally.faults.items()))}"),
        ("answers to clients", counted(sorted((str(status), count) for status, count in tally.answers.items()))),
        *((f"**{column}**", f"**{count}**") for column, count in counts(findings).items()),
        ("restarts", f"{tally.restarts}"),
        ("takeover after a kill", latencies(tally.takeovers)),
        ("cancel, until a follower sees it", latencies(tally.cancels)),
        ("end of a chat that was left", latencies(tally.lefts)),
        ("503 to a POST", latencies(tally.unavailable)),
        ("failed starts, Redis being away", f"{tally.failed_starts}"),
    ]
    return table(rows)


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, as Markdown that also reads well in a terminal."""
    width = max(len(name) for name, _ in rows)
    lines = [f"| {name.ljust(width)} | {value} |" for name, value in rows]
    return "\n".join([f"| {''.ljust(width)} | |", f"|{'-' * (width + 2)}|---|", *lines])


def counted(pairs: Iterable[tuple[str, int]]) -> str:
    """Names and how often each came, in one line."""
    return ", ".join(f"{count} {name}" for name, count in pairs) or "none"
