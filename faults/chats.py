"""Which chats there are and how each is read: a pure function of the seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from faults.settings import STALL_TIMEOUT

_LONGEST = 10.0
_LEFT_DELTAS, _LEFT_INTERVAL = 300, 0.2
"""Of a chat that all readers leave: it would go on for a minute if nobody noticed."""

_SCRAPS = ("ピロ", " tick", "\n", "\r\n", "é", "🐦", " ", "\n\n", "\r", "data: x", "id: 1", ":", "\t", '"', "\\")
_FAULTS = ("cut", "stall", "truncate", "error", "done_without_finish", "garbage", "status")
FINAL_STATUS = 400


@dataclass(frozen=True, slots=True)
class ReaderPlan:
    """One reader: when it comes, what it asks for, and how it leaves and comes back.

    `delay`: seconds after the chat's id is known. `cut_every`: bytes, on average, after which it cuts its connection
    (None: never). `pause`: seconds between two reads of little. `resumes_by`: `header`, `after` or `post`.
    """

    format: str
    delay: float
    cut_every: int | None
    pause: float
    resumes_by: str


@dataclass(frozen=True, slots=True)
class CancelPlan:
    """A cancel, `after` seconds after the chat's id is known, through so many replicas at once."""

    after: float
    times: int


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """One chat. `fault` is the upstream's, in the words of the simulator's script; `times` is in it if it passes."""

    number: int
    at: float
    deltas: tuple[str, ...]
    ttft: float
    interval: float
    fault: dict[str, Any] | None
    on_worker_loss: str
    on_disconnect: str
    is_keyed: bool
    is_streamed: bool
    echo: float | None
    """Seconds after the first POST at which a second one with the same key goes to another replica, come what may."""
    cancel: CancelPlan | None
    readers: tuple[ReaderPlan, ...] = field(default=())
    left: float | None = None
    """Seconds after the chat's id is known at which all readers leave, to come back when it has ended."""

    @property
    def label(self) -> str:
        """The chat's name at the simulator, also its idempotency key."""
        return f"chat-{self.number}"

    @property
    def answer(self) -> str:
        """All of what the upstream says if nothing fails."""
        return "".join(self.deltas)

    @property
    def failing_requests(self) -> int | None:
        """How many of the upstream's answers cannot be complete: the first so many; None: all of them.

        But for a cut that is due beyond the last delta: it comes after the finish_reason.
        """
        if self.fault is None or (self.fault["kind"] == "stall" and self.fault["seconds"] < STALL_TIMEOUT):
            return 0
        times: int | None = self.fault.get("times")
        return times

    def body(self, run: str) -> bytes:
        """What to post; `run` keeps the keys of two runs against one simulator apart."""
        script: dict[str, Any] = {
            "key": f"{run}/{self.label}",
            "deltas": self.deltas,
            "ttft": self.ttft,
            "interval": self.interval,
        }
        if self.fault is not None:
            script["fault"] = self.fault
        return json.dumps(
            {"messages": [{"role": "user", "content": self.label}], "simulator": script}, ensure_ascii=False
        ).encode()


def make_chats(seed: int, count: int, seconds: float) -> list[ChatPlan]:
    """`count` chats that begin within `seconds`, at random moments, in order."""
    random = Random(f"{seed}/arrivals")
    moments = sorted(random.uniform(0.0, seconds) for _ in range(count))
    return [_make_chat(Random(f"{seed}/chat/{number}"), number, at) for number, at in enumerate(moments)]


def _make_chat(random: Random, number: int, at: float) -> ChatPlan:
    length = random.choices(
        (0, random.randint(1, 10), random.randint(10, 80), random.randint(80, 250), random.randint(600, 1200)),
        (2, 15, 60, 20, 3),
    )[0]
    interval = min(random.choice((0.0, 0.005, 0.02, 0.05, 0.1)), _LONGEST / max(length, 1))
    ttft = random.choice((0.0, 0.1, random.uniform(0.0, 0.6)))
    duration = ttft + length * interval
    is_keyed = random.random() < 0.5
    chat = ChatPlan(
        number=number,
        at=round(at, 3),
        deltas=tuple(f"{position}{random.choice(_SCRAPS)}" for position in range(length)),
        ttft=round(ttft, 3),
        interval=round(interval, 4),
        fault=_make_fault(random, length) if random.random() < 0.3 else None,
        on_worker_loss=random.choices(("restart", "continue", "fail"), (5, 3, 2))[0],
        on_disconnect="cancel" if random.random() < 0.04 else "keep",
        is_keyed=is_keyed,
        is_streamed=random.random() < 0.5,
        echo=round(random.uniform(0.0, 1.0), 3) if is_keyed and random.random() < 0.3 else None,
        cancel=_make_cancel(random, duration) if random.random() < 0.15 else None,
        readers=tuple(_make_reader(random, duration, is_first=index == 0) for index in range(_readers(random))),
    )
    return _make_left(chat, round(random.uniform(0.5, 3.0), 3)) if random.random() < 0.04 else chat


def _make_left(chat: ChatPlan, left: float) -> ChatPlan:
    deltas = tuple(f"{position} " for position in range(_LEFT_DELTAS))
    return replace(
        chat, deltas=deltas, interval=_LEFT_INTERVAL, fault=None, cancel=None, on_disconnect="cancel", left=left
    )


def _readers(random: Random) -> int:
    return random.choices((1, 2, 3, 4), (35, 30, 20, 15))[0]


def _make_fault(random: Random, length: int) -> dict[str, Any]:
    kind = random.choice(_FAULTS)
    fault: dict[str, Any] = {"kind": kind}
    if kind == "status":
        fault["status"] = random.choice((500, 500, 429, FINAL_STATUS))
        fault["retry_after"] = 0.1
    else:
        fault["after"] = random.randint(0, length + (kind == "cut"))  # beyond: after the finish_reason
    if kind == "stall":
        fault["seconds"] = random.choice((1.0, 600.0))
    if random.random() < 0.75:
        fault["times"] = random.choice((1, 1, 1, 2, 2, 3))
    return fault


def _make_cancel(random: Random, duration: float) -> CancelPlan:
    after = random.choice((0.0, random.uniform(0.0, 0.1), random.uniform(0.0, 1.2 * duration + 0.2)))
    return CancelPlan(round(after, 3), random.choice((1, 1, 2)))


def _make_reader(random: Random, duration: float, *, is_first: bool) -> ReaderPlan:
    late = random.choice((0.0, 0.0, random.uniform(0.0, duration), duration + random.uniform(0.0, 5.0)))
    is_slow = random.random() < 0.1
    return ReaderPlan(
        format=random.choice(("text", "json")),
        delay=0.0 if is_first else round(late, 3),
        cut_every=random.choice((300, 1000, 3000)) if random.random() < 0.65 else None,
        pause=round(random.uniform(0.02, 0.15), 3) if is_slow else 0.0,
        resumes_by=random.choice(("header", "after", "post")),
    )


def readers_of(chats: Sequence[ChatPlan]) -> int:
    """How many readers there are in all."""
    return sum(len(chat.readers) for chat in chats)
