"""Logs of responses that show every kind of event, by name.

`PYTHONPATH=tests python -m harness.response_logs` writes what they fold to anew.
"""

from pathlib import Path

from api.responses.encoder import ResponseEncoder
from api.responses.request import parse_request
from api.responses.shape import Head
from harness.chat_logs import LogBuilder

CHAT_ID = "chat_abcdefghijklmnopqrst"
DATA = Path(__file__).parents[1] / "unit" / "api" / "data" / "responses"

LOGPROB = {"token": "や", "logprob": -0.5, "bytes": [227, 130, 132]}
LOGPROBS = {"content": [{**LOGPROB, "top_logprobs": [LOGPROB]}], "refusal": None}


def head(**body):
    request = parse_request({"input": "hi", **body}, "default-model")
    return Head.of(CHAT_ID, request.model, 1_700_000_000_123, request.origin)


def begun():
    return LogBuilder().started().role()


BACKGROUND = {"background": True}
FULL = {
    "instructions": "Be brief.",
    "model": "mine",
    "background": True,
    "temperature": 0.5,
    "top_p": 1,
    "max_output_tokens": 100,
    "metadata": {"a": "b"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "service_tier": "auto",
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {
        "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
        "verbosity": "low",
    },
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "parallel_tool_calls": False,
    "previous_response_id": "resp_x",
    "truncation": "disabled",
}

LOGS = {
    "text": (head(), begun().texts("Hello", " \n世界").done()),
    "background": (head(**FULL), begun().texts("{", "}").done()),
    "empty": (head(), begun().done(usage=None)),
    "reasoning": (head(), begun().delta({"reasoning_content": "Hm"}).delta({"reasoning": "m."}).texts("Yes.").done()),
    "summary": (
        head(reasoning={"summary": "auto"}),
        begun().delta({"reasoning_content": "Hm"}).delta({"reasoning": "m."}).texts("Yes.").done(),
    ),
    "refusal": (head(), begun().delta({"refusal": "I "}).delta({"refusal": "won't."}).done()),
    "text_then_refusal": (head(), begun().texts("Well").delta({"refusal": "no"}).done()),
    "calls": (
        head(tools=FULL["tools"]),
        begun()
        .texts("Let me see.")
        .call(0, name="f", id_="call_1")
        .call(1, name="g", id_="call_2")
        .call(0, '{"a":')
        .call(1, '{"b":')
        .call(0, "1}")
        .call(1, "2}")
        .done("tool_calls"),
    ),
    "logprobs": (
        head(include=["message.output_text.logprobs"], top_logprobs=1),
        begun().delta({"content": "や"}, logprobs=LOGPROBS).done(),
    ),
    "length": (head(), begun().texts("Too lo").done("length")),
    "content_filter": (head(), begun().texts("Ba").done("content_filter")),
    "failed": (head(**BACKGROUND), begun().texts("Hal").failed()),
    "cancelled": (head(**BACKGROUND), begun().texts("Hal").call(0, '{"a', name="f", id_="call_1").cancelled()),
    "cancelled_in_the_queue": (head(**BACKGROUND), LogBuilder().cancelled()),
    "restart": (head(**BACKGROUND), begun().texts("Hal").restarted().role().texts("Hello").done()),
    "silent_restart": (head(**BACKGROUND), begun().restarted().role().texts("Hello").done()),
    "continued": (head(**BACKGROUND), begun().texts("Hal").started().role().texts("lo").done()),
}


def whole(name):
    """The bytes that a reader gets who is there from the beginning; after a restart he comes anew."""
    response_head, log = LOGS[name]
    received, after = b"", None
    while True:
        encoder = ResponseEncoder(response_head, after)
        received += b"".join(encoder.frame(entry) for entry in log.entries)
        if not encoder.is_over:
            return received
        after = received.count(b"event: ") - 1


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    for name in LOGS:
        (DATA / f"{name}.sse").write_bytes(whole(name))
