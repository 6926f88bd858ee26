"""What a reader received: taken apart after the run, every byte of it, with the moment at which each delta came."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

_EVENT = re.compile(
    rb'(?:event: delta\n)?(?:id: (?P<id>\S+)\n)?data: (?:\{(?:"id"[^\n]*)?"content":")?'
    rb'(?P<number>\d{7}) (?P<moment>\d{19})(?:"[^\n]*\})?\n\n'
    rb'|(?:event: done\n)?(?:id: \S+\n)?(?P<end>data: (?:\[DONE\]|\{"finish_reason":"stop"[^\n]*\}))\n\n'
    rb"|: keep-alive\n\n?"
    rb'|event: queued\ndata: \{"position":\d+\}\n\n'
    rb'|data: \{"id"[^\n]*\}\n\n'
    rb"|event: started\nid: \S+\ndata: \{[^\n]*\}\n\n"
    rb'|event: delta\nid: \S+\ndata: \{(?:"role"[^\n]*)?\}\n\n'
)
"""A delta, as text, as JSON or as the upstream's own JSON; the end; a keep-alive; a place in the queue; and what says
nothing of the answer: the upstream's role and finish reason, the attempt's beginning, a delta without content."""

_POSITION = re.compile(rb'event: queued\ndata: \{"position":(\d+)')
_TEXT = re.compile(rb"(?:id: \S+\n)?data: ([^\n]*)\n\n|: keep-alive\n\n?")
_DONE = re.compile(rb"(?:event: done\n)?(?:id: \S+\n)?data: \[DONE\]\n\n")
_STATUS = b"HTTP/1.1 200 "
_LINE = b"\r\n"
_LAST_PIECE = b"\r\n0\r\n\r\n"
_CHAT_ID = re.compile(rb"(?i)\r\nx-chat-id: *(\S+)")
_ANY_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: *(\d+)")
_SHOWN = 80

Reads = Sequence[tuple[int, bytes]]
"""What came, each with its moment in ns."""


@dataclass(slots=True)
class Answer:
    """What the bytes say: moments in ns of each delta's write and arrival, and the ids of the events.

    `fault` is what is wrong with them; `has_ended` whether all has come, which a reader that was cut cannot say.
    """

    chat_id: str = ""
    sent: list[int] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    has_ended: bool = False
    fault: str | None = None

    def latencies(self, begin: int, end: int) -> list[float]:
        """Of the deltas written between two moments, in ms."""
        pairs = zip(self.sent, self.arrived, strict=True)
        return [(arrived - sent) / 1e6 for sent, arrived in pairs if begin <= sent < end]


def read(reads: Reads, deltas: int, first: int = 0) -> Answer:
    """Take apart what came of an answer whose deltas are numbered from `first` up to `deltas`."""
    answer = Answer()
    raw = b"".join(data for _, data in reads)
    head, blank, _ = raw.partition(b"\r\n\r\n")
    if not blank:
        return answer
    if not raw.startswith(_STATUS):
        answer.fault = f"the answer was {raw.partition(_LINE)[0][:_SHOWN]!r}"
        return answer
    if found := _CHAT_ID.search(head):
        answer.chat_id = found[1].decode()
    try:
        pieces = list(_pieces(raw, len(head) + len(blank)))
    except ValueError:
        answer.fault = "the chunked framing is broken"
        return answer
    _take_apart(answer, b"".join(raw[begin:end] for begin, end in pieces), _Clock(reads, pieces), deltas, first)
    is_whole = raw.endswith(_LAST_PIECE)
    if answer.fault is None and is_whole and not answer.has_ended:
        answer.fault = f"it was closed at delta {first + len(answer.sent)} of {deltas}"
    answer.has_ended = answer.has_ended and is_whole
    return answer


def read_prose(reads: Reads, text: bytes) -> Answer:
    """Compare an answer that is not stamped with the text that it must be."""
    answer = Answer()
    raw = b"".join(data for _, data in reads)
    head, _, _ = raw.partition(b"\r\n\r\n")
    if not raw.startswith(_STATUS):
        answer.fault = f"the answer was {raw.partition(_LINE)[0][:_SHOWN]!r}" if raw else None
        return answer
    try:
        body = b"".join(raw[begin:end] for begin, end in _pieces(raw, len(head) + 4))
    except ValueError:
        answer.fault = "the chunked framing is broken"
        return answer
    done = _DONE.search(body)
    if done is None or not raw.endswith(_LAST_PIECE):
        return answer
    answer.has_ended = True
    told = body[: done.start()]
    said = b"".join(found[1] or b"" for found in _TEXT.finditer(told))
    if said != text or _TEXT.sub(b"", told) or done.end() != len(body):
        answer.fault = f"the text is another one: {len(said)} bytes where {len(text)} were due"
    return answer


def refusal(reads: Reads) -> tuple[int, int | None]:
    """The status of an answer (0: none), and its Retry-After in seconds."""
    raw = b"".join(data for _, data in reads)
    found = _ANY_STATUS.match(raw)
    after = _RETRY_AFTER.search(raw.partition(b"\r\n\r\n")[0])
    return int(found[1]) if found else 0, int(after[1]) if after else None


def _take_apart(answer: Answer, body: bytes, clock: "_Clock", deltas: int, first: int) -> None:
    at, due, place = 0, first, (-1, -1)
    for event in _EVENT.finditer(body):
        if event.start() != at or answer.has_ended:
            break
        at = event.end()
        event_id, number, moment, end = event.group("id", "number", "moment", "end")
        if end:
            answer.has_ended = True
        elif number:
            if int(number) != due:
                answer.fault = f"delta {int(number)} came where {due} was due"
                return
            due += 1
            answer.sent.append(int(moment))
            answer.arrived.append(clock.at(at))
        if event_id:
            before, place = place, _place(event_id)
            answer.ids.append(event_id.decode())
            if place <= before:
                answer.fault = f"id {answer.ids[-1]} does not follow the one before"
                return
    answer.positions = [int(position) for position in _POSITION.findall(body, 0, at)]
    rest = body[at:]
    if rest and (answer.has_ended or b"\n\n" in rest):
        answer.fault = f"these bytes are no event that was due: {rest[:_SHOWN]!r}"
    elif answer.has_ended and due != deltas:
        answer.fault = f"it ended at delta {due} of {deltas}"


def _place(event_id: bytes) -> tuple[int, int]:
    major, _, minor = event_id.rpartition(b":")[2].partition(b"-")
    return int(major), int(minor)


def _pieces(raw: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Where the body is, between HTTP's framing; the last piece may be there in part.

    Raises:
        ValueError: it is no such framing.
    """
    while (line := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:line], 16)
        begin, at = line + 2, line + 2 + size + 2
        if not size:
            return
        yield begin, min(begin + size, len(raw))


class _Clock:
    """Tells when a byte of the body came: through the framing, back to the read that brought it."""

    def __init__(self, reads: Reads, pieces: Sequence[tuple[int, int]]) -> None:
        self._moments = [moment for moment, _ in reads]
        self._read_ends = list(accumulate(len(data) for _, data in reads))
        self._raw_ends = [end for _, end in pieces]
        self._body_ends = list(accumulate(end - begin for begin, end in pieces))

    def at(self, body_end: int) -> int:
        """The moment at which the body's first `body_end` bytes had come."""
        piece = bisect_left(self._body_ends, body_end)
        raw_end = self._raw_ends[piece] - (self._body_ends[piece] - body_end)
        return self._moments[bisect_left(self._read_ends, raw_end)]
