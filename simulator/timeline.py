"""The course of a stream as steps: which bytes are due when, where it pauses and how it ends. No clock in here."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from simulator.chunks import DONE, FrameWriter, count_deltas, write_raw
from simulator.reply import Reply
from simulator.script import (
    AnyFault,
    CutFault,
    DoneWithoutFinishFault,
    ErrorFault,
    GarbageFault,
    InStream,
    MidwayFault,
    Script,
    StallFault,
    TruncateFault,
)

_INTERVAL = 0.025
_PING = b": ping\n\n"


class Write(NamedTuple):
    """Bytes to send `due` seconds after the start; `deltas` of them count as sent, 0 or 1."""

    due: float
    data: bytes
    deltas: int = 0


class Strike(NamedTuple):
    """A fault takes effect here, and nothing follows for `pause` seconds."""

    kind: str
    pause: float = 0.0


class End(NamedTuple):
    """The last step; `is_clean` says whether the response is completed or the connection closed."""

    is_clean: bool
    fault: str | None = None


Step = Write | Strike | End


def due_at(script: Script, position: int) -> float:
    """When the delta at `position` is due, in seconds after the start."""
    if script.interval is not None:
        return script.ttft + script.interval * position
    jitter = (position * 2_654_435_761 & 0xFFFF) / 0x20000 if position else 0.0
    return script.ttft + _INTERVAL * (position + jitter)


def duration(reply: Reply, script: Script) -> float:
    """When the last delta is due."""
    return due_at(script, max(0, sum(map(count_deltas, reply.choices)) - 1))


def plan(reply: Reply, script: Script, writer: FrameWriter, faults: Sequence[AnyFault]) -> Iterator[Step]:
    """Lay out the stream of `reply`; ends with exactly one End."""
    if script.raw_chunks is None:
        opening, closing = writer.opening(reply.choices), writer.closing(reply)
        deltas = writer.deltas(reply.choices)
        total = sum(map(count_deltas, reply.choices))
    else:
        opening, closing = [], []
        deltas = map(write_raw, script.raw_chunks)
        total = len(script.raw_chunks)
    finish, rest = closing[: len(reply.choices)], closing[len(reply.choices) :]
    ending = b"".join(finish), b"".join((*rest, DONE))
    steps = _steps(script, opening, deltas, total, ending, _by_position(faults, total))
    return map(_with_crlf, steps) if script.crlf else steps


def _with_crlf(step: Step) -> Step:
    return step._replace(data=step.data.replace(b"\n", b"\r\n")) if isinstance(step, Write) else step


def _by_position(faults: Sequence[AnyFault], total: int) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = defaultdict(list)
    for fault in faults:
        if isinstance(fault, MidwayFault):
            # Only a cut can come after the finish_reason: the answer is complete then, but for usage and `[DONE]`.
            last = total + isinstance(fault, CutFault)
            found[min(fault.after, last)].append(fault)
    return dict(found)


def _steps(
    script: Script,
    opening: Sequence[bytes],
    deltas: Iterator[bytes],
    total: int,
    ending: tuple[bytes, bytes],
    faults: dict[int, list[InStream]],
) -> Iterator[Step]:
    if script.comments:
        yield Write(0.0, _PING)
    due = due_at(script, 0)
    yield from (Write(due, frame) for frame in opening)
    for position, frame in enumerate(chain(deltas, ending)):
        is_delta = position < total
        if is_delta:
            due = due_at(script, position)
        for fault in faults.get(position, ()):
            yield from _strike(fault, due, frame)
            if not isinstance(fault, GarbageFault | StallFault):
                return
        if script.comments and is_delta:
            yield Write(due, _PING)
        yield Write(due, frame, int(is_delta))
    yield End(is_clean=True)


def _strike(fault: InStream, due: float, frame: bytes) -> Iterator[Step]:
    """The steps of a fault that comes where `frame` would have been next."""
    match fault:
        case StallFault():
            yield Strike(fault.kind, fault.seconds)
            return
        case CutFault():
            yield Write(due, frame[: len(frame) // 2])
        case GarbageFault():
            yield Write(due, fault.text.encode())
        case ErrorFault():
            yield Write(due, write_raw(fault.error().envelope()) + DONE)
        case DoneWithoutFinishFault():
            yield Write(due, DONE)
        case TruncateFault():
            yield Write(due, b"")
    yield Strike(fault.kind)
    if not isinstance(fault, GarbageFault):
        yield End(is_clean=not isinstance(fault, CutFault), fault=fault.kind)
