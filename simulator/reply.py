"""The reply to a question, before it has a format: what each choice consists of, delta by delta.

Everything follows from the request alone, so a retried request gets the same reply. A request whose last
message is the assistant's (`continue_final_message`, `prefix` and the like) is answered with what the full
reply says after that text; if the reply does not begin with it, with all of the reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from simulator.answers import compose
from simulator.question import Question
from simulator.script import Script, ToolCall
from simulator.tokens import tokenise


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a reply; the text fields are sequences of deltas."""

    content: Sequence[str]
    reasoning: Sequence[str]
    refusal: Sequence[str]
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Reply:
    """All choices, and the numbers for usage."""

    choices: tuple[Choice, ...]
    prompt_tokens: int


def write_reply(question: Question, script: Script) -> Reply:
    """Work out the reply that `question` gets under `script`."""
    choices = tuple(_write_choice(question, script, index) for index in range(question.n or 1))
    return Reply(choices, question.prompt_tokens)


def _write_choice(question: Question, script: Script, index: int) -> Choice:
    content = remainder(_content(question, script, index), question.prefix)
    finish_reason = "tool_calls" if script.tool_calls else "stop"
    if question.limit is not None and len(content) > question.limit:
        content, finish_reason = content[: question.limit], "length"
    return Choice(
        content=content,
        reasoning=tokenise(script.reasoning),
        refusal=tokenise(script.refusal),
        tool_calls=script.tool_calls,
        finish_reason=script.finish_reason or finish_reason,
    )


def _content(question: Question, script: Script, index: int) -> Sequence[str]:
    if script.deltas is not None:
        source: Sequence[str] = script.deltas
    elif script.text is not None:
        source = tokenise(script.text)
    elif script.tokens is None and (script.tool_calls or script.refusal):
        source = ()
    else:
        source = tokenise(compose(question.asked, index))
    if script.tokens is None:
        return source
    separator = ("\n\n",) if script.deltas is None and source else ()
    return tuple(islice(cycle((*source, *separator)), script.tokens))


def remainder(deltas: Sequence[str], prefix: str) -> Sequence[str]:
    """What is left of `deltas` once `prefix` has been said; all of them if they do not begin with it."""
    if not prefix or not "".join(deltas).startswith(prefix):
        return deltas
    said = 0
    for position, delta in enumerate(deltas):
        said += len(delta)
        if said > len(prefix):
            return (delta[len(prefix) - said :], *deltas[position + 1 :])
    return ()
