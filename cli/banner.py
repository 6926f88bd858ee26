"""The text shown when the stack is ready."""

from collections.abc import Sequence
from dataclasses import dataclass

BODY = '{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"やっほ"}]}'


@dataclass(frozen=True)
class Facts:
    """What the user needs to know of the running stack."""

    url: str
    replicas: Sequence[str]
    redis: str
    embedded: bool
    simulated: bool
    api: int
    workers: int


def curl(url: str) -> str:
    """The command to paste."""
    return f"curl -N -H \"Content-Type: application/json\" -d '{BODY}' {url}/v1/chat/stream"


def banner(facts: Facts) -> str:
    """Every line to show; the command to paste stands alone on its line."""
    replicas = [f"    replicas    {'  '.join(facts.replicas)}"] if facts.replicas else []
    return "\n".join(
        (
            "",
            f"  Piropiro is ready: {facts.url}",
            "",
            f"    reference   {facts.url}/docs",
            *replicas,
            f"    upstream    {_upstream(facts)}",
            f"    redis       {facts.redis}{' (embedded, in memory only)' if facts.embedded else ''}",
            f"    processes   {_count(facts.api, 'API process', 'es')}, {_count(facts.workers, 'worker')}",
            "",
            "  Open it in a browser, or paste this into another terminal:",
            "",
            curl(facts.url),
            "",
            "  Ctrl-C stops everything.",
            "",
        )
    )


def _upstream(facts: Facts) -> str:
    if facts.simulated:
        return "no OPENAI_API_KEY: answers come from the simulator; set OPENAI_API_KEY to use the real thing"
    return "OpenAI-compatible, from OPENAI_API_KEY and OPENAI_BASE_URL"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"
