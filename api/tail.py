"""Following logs: one tail per chat per replica, however many readers it has.

Why nothing is missed or doubled
================================

The stream is the truth; publications are only speed. A tail holds the log's live edge: a ring of the last entries,
contiguous from just above `base` up to `top`. It is built in this order: subscribe, wait for the acknowledgement, read
the stream's top, then apply publications. From then on a publication is applied only as far as it continues `top`;
if its predecessor is something the tail has not seen, the tail reads the stream instead. It also reads the stream after
every resubscription and after some seconds of silence. So `top` only ever advances over entries without a hole.

A follower is a position. Within the ring it takes what follows from there, without waiting; below `base` (a late
reader, or one too slow for the ring) it reads pages of the stream itself until it is in the ring again. It keeps
nothing of a page but what one write takes, and a ring is the larger the more followers share it. Hence a slow follower
costs no memory beyond its share of the ring and the one write that its client does not take, and delays nobody.

What is cheap about it: nobody sleeps and wakes per delta. All publications of one read are taken in first; then the
followers of the chats that they concern are told, by a plain call, and those at the same position share the bytes.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from operator import itemgetter
from typing import Protocol

from shared import keys
from shared.connect import FAILURES
from shared.cursor import ACCEPTED, START, TERMINAL, EntryId
from shared.events import Entry
from shared.log import ChatLog, Publication
from shared.queue import JobQueue
from shared.subscriber import Subscriber

logger = logging.getLogger(__name__)

_RING_ENTRIES = 512
_RING_BYTES = 262_144
_SHARE_ENTRIES = 64
_SHARE_BYTES = 16_384
"""What a ring may grow by for each follower: one that has few is not worth much memory, they can read pages."""

_PAGE = 1024
_FIRST_PAGE = 8
_PAGE_GROWTH = 4
"""How many times as many entries a page may have as the one before: small ones do not tell how large the next are."""

_WRITE_BYTES = 65_536
_SILENCE = 10.0
"""Seconds without a publication after which a tail looks into the stream."""

_PAGES_AT_ONCE = 8
"""So many followers of a replica read a page at the same time: else hundreds that resume at once would hold every
connection to Redis and the event loop, and the requests of those who come next would time out."""

_TICK = 0.5
_RETRY = 0.1
HEAL = 3.0
"""Seconds that a writer gets to append anew what a failover forgot, before a reader's cursor counts as lost."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chat stands among the waiting, from 1."""

    position: int


class Step(Enum):
    """What a follower says when it has nothing to give at once."""

    IDLE = auto()
    """Nothing yet."""
    LAGGING = auto()
    """What follows has to be read from the stream."""
    OVER = auto()
    """Nothing more comes, whether or not the log has ended."""


class Encoder(Protocol):
    """A wire format: what a reader is sent of each entry.

    One that keeps a state belongs to one follower, which then has to begin where the log does.
    """

    @property
    def is_shared(self) -> bool:
        """It keeps no state, and equal encoders give equal frames: followers may share what it made."""
        ...

    @property
    def shows_places(self) -> bool:
        """Its readers are told their chat's place in the queue."""
        ...

    @property
    def is_over(self) -> bool:
        """It has ended the stream by itself; every further frame is empty."""
        ...

    def frame(self, entry: Entry) -> bytes:
        """Encode an entry, empty if it has nothing to show; called once per entry, in order."""
        ...

    def interrupted(self) -> bytes | None:
        """What a reader is told last if the stream ends before the log does; None: its connection is to be cut."""
        ...


class Follower:
    """One reader's position in a chat's log.

    `on_more` is called, never from within `take`, when another `take` may give more. Between two calls, the encoder may
    be replaced.
    """

    __slots__ = ("_page_count", "_place_told", "_tail", "encoder", "is_closed", "on_more", "position")

    def __init__(self, tail: "Tail", after: EntryId, encoder: Encoder) -> None:
        self._tail = tail
        self.encoder = encoder
        self._place_told: Place | None = None
        self._page_count = _FIRST_PAGE
        self.position = after
        self.is_closed = False
        self.on_more: Callable[[], None] = _ignore

    @property
    def is_over(self) -> bool:
        """Nothing more comes, whether or not the log has ended."""
        return self.is_closed or self._tail.is_closed

    @property
    def is_at_edge(self) -> bool:
        """Another `take`, with nothing new, would give nothing."""
        return self.position == self._tail.top != TERMINAL and not self.encoder.is_over

    def take(self) -> bytes | Place | Step:
        """What to send next, about as much as one write shall have: frames, or a new place in the queue."""
        tail, encoder = self._tail, self.encoder
        while not (self.is_closed or tail.is_closed or self.position == TERMINAL or encoder.is_over):
            if tail.top is None or self.position >= tail.top:
                return self._new_place()
            run = tail.run_after(self.position, encoder)
            if run is None:
                return Step.LAGGING
            self.position, frames = run
            if frames:
                return frames
        return Step.OVER

    def last_words(self) -> bytes | None:
        """What to send when it is over, which may be nothing; None if the connection is to be cut."""
        return b"" if self.position == TERMINAL or self.encoder.is_over else self.encoder.interrupted()

    def _new_place(self) -> Place | Step:
        place = self._tail.place
        if place == self._place_told or not self.encoder.shows_places:
            return Step.IDLE
        self._place_told = place
        return place or Step.IDLE

    async def catch_up(self) -> bytes:
        """Read the next page from the stream, about as much as one write shall have; its frames, which may be none.

        Raises:
            shared.connect.FAILURES: it could not be read; the position is unchanged.
        """
        async with self._tail.turns:
            entries = await self._tail.read(self.position, self._page_count)
            if entries:
                average = sum(len(entry.value) for entry in entries) // len(entries)
                fitting = max(1, _WRITE_BYTES // (average + 1))
                self._page_count = min(_PAGE, _PAGE_GROWTH * self._page_count, fitting)
                self.position, frames = _one_write(entries, self.encoder)
                return frames
        await self._heal()
        return b""

    async def _heal(self) -> None:
        """The stream lacks the position: a failover forgot it, and what lies above is not its sequel."""
        if self._tail.is_sealed:
            self._tail.close()  # the log is past its retention
        else:
            self._tail.refresh()  # which heals, or ends the streams
            await asyncio.sleep(_RETRY)

    async def next(self, patience: float) -> bytes | Place | None:
        """Wait for what to send next; None when the stream is over.

        Empty frames mean that nothing came within `patience` seconds.

        Raises:
            shared.connect.FAILURES: a page could not be read; the position is unchanged.
        """
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            more = asyncio.Event()
            self.on_more = more.set
            match self.take():
                case Step.OVER:
                    return None
                case Step.LAGGING:
                    if frames := await self.catch_up():
                        return frames
                case Step.IDLE:
                    try:
                        async with asyncio.timeout_at(deadline):
                            await more.wait()
                    except TimeoutError:
                        return b""
                case found:
                    return found

    def close(self) -> None:
        """Leave the tail; there is nothing more to take from now on. Closing twice is harmless."""
        if not self.is_closed:
            self.is_closed = True
            self.on_more()
            self._tail.leave(self)


_ID = itemgetter(0)


def _ignore() -> None:
    """For a follower that nobody waits for."""


def _one_write(entries: Sequence[Entry], encoder: Encoder) -> tuple[EntryId, bytes]:
    """The frames of the first entries, about as many as one write shall have, and the last one's id."""
    if len(entries) == 1:
        return entries[0].id, encoder.frame(entries[0])
    frames: list[bytes] = []  # in short words: each of `list[bytes]()` takes as long as two calls
    size, position, frame = 0, START, encoder.frame
    for entry in entries:
        encoded = frame(entry)
        frames.append(encoded)
        size += len(encoded)
        position = entry.id
        if size >= _WRITE_BYTES:
            break
    return position, b"".join(frames)


class Tail:
    """One chat's live edge on this replica. Made by `Tails`; a listener of its channel."""

    def __init__(self, chat_id: str, tails: "Tails", log: ChatLog, turns: asyncio.Semaphore) -> None:
        self.chat_id = chat_id
        self.turns = turns
        self.place: Place | None = None
        self.is_closed = False
        self.top: EntryId | None = None
        """The last entry seen; None before there was a look at the log."""
        self.followers: set[Follower] = set()
        self.cancels_when_left = False
        self._tails = tails
        self._log = log
        self.last_heard = asyncio.get_running_loop().time()
        self._base = START
        self._entries: list[Entry] = []
        self._bytes = 0
        self._told, self._told_top = 0, START
        """How many of the entries followers were told of, and the last of them."""
        self._runs: dict[tuple[EntryId, Encoder], tuple[EntryId, bytes]] = {}
        self._is_telling = False
        self._most = self._most_bytes = self._trim_at = self._trim_at_bytes = 0
        self._heard = START
        self._is_stale = False
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """No worker has claimed the chat yet, as far as this tail has seen."""
        return self.top == ACCEPTED

    @property
    def is_sealed(self) -> bool:
        return self.top == TERMINAL

    def is_at(self, top: EntryId | None) -> bool:
        """Whether the log's top is what this tail has seen and been told of."""
        return top is not None and top == self.top and top >= self._heard

    def run_after(self, position: EntryId, encoder: Encoder) -> tuple[EntryId, bytes] | None:
        """Where one write from above `position`, which is below `top`, ends, and its frames; None if the ring lacks it.

        Followers at the same position with equal encoders get the same bytes, which are made once if they can be.
        """
        is_shared = self._is_telling and encoder.is_shared
        if is_shared and (run := self._runs.get((position, encoder))):
            return run
        if position < self._base:
            return None
        # Nearly all followers are where they were told of the last news.
        start = self._told if position == self._told_top else bisect_right(self._entries, position, key=_ID)
        run = _one_write(self._entries[start:], encoder)
        if is_shared:
            self._runs[position, encoder] = run
        return run

    async def read(self, position: EntryId, count: int) -> list[Entry]:
        """The next entries above `position`, from the stream; none if that does not hold the position itself."""
        if position == START:
            return await self._log.read(self.chat_id, position, count)
        entries = await self._log.read_from(self.chat_id, position, count + 1, is_sealed=self.is_sealed)
        return entries[1:] if entries and entries[0].id == position else []

    def on_subscribed(self) -> None:
        self.refresh()

    def on_message(self, payload: bytes) -> None:
        predecessor, entries = Publication.parse(payload)
        top, last = self.top, entries[-1].id
        if predecessor == top:
            self._extend(entries)
        elif top is not None and any(entry.id == top for entry in entries):
            self._extend([entry for entry in entries if entry.id > top])
        elif top is None or last > top:
            self._heard = max(self._heard, last)
            self.refresh()

    def refresh(self) -> None:
        """Read the stream; if that is under way, once more afterwards."""
        self._is_stale = True
        if self._refreshing is None and not self.is_closed:
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            since = None
            while self._is_stale and not self.is_closed:
                self._is_stale = False
                try:
                    is_whole = await self._read()
                except FAILURES as error:
                    logger.warning("tail of %s cannot read, trying again: %s", self.chat_id, error)
                    self._is_stale = True
                    await asyncio.sleep(_RETRY)
                    continue
                if is_whole and self.top is not None and self.top >= self._heard:
                    since = None
                    continue
                # The stream lacks what was shown or published: a failover forgot it, and its writer may append it anew.
                now = asyncio.get_running_loop().time()
                since = since or now
                if now - since > HEAL:
                    self._give_up(is_whole)
                    since = None
                    continue
                if not self._is_stale:  # else the publication came during the read: look again at once
                    self._is_stale = True
                    await asyncio.sleep(_RETRY)
        finally:
            self._refreshing = None
            self.last_heard = asyncio.get_running_loop().time()

    def _give_up(self, is_whole: bool) -> None:  # noqa: FBT001  # what `_read` told
        """Accept that the stream lost something for good: fatal only if it was shown."""
        if is_whole:
            self._heard = START
        else:
            logger.warning("log of %s lost entries that were delivered: ending its streams", self.chat_id)
            self.close()

    async def _read(self) -> bool:
        """Bring `top` to the stream's; False if the stream does not have what this tail has already shown."""
        if self.top is None:
            top = await self._log.top(self.chat_id)
            if top is None:
                return False
            self.top = self._base = top
            self._tails.tell_soon(self)
            return True
        while True:
            at = self.top
            entries = await self._log.read_from(self.chat_id, at, _PAGE)
            if not entries or entries[0].id != at:
                return at == TERMINAL
            # Publications may have come meanwhile.
            self._extend([entry for entry in entries if entry.id > self.top])
            if len(entries) < _PAGE:
                return True

    def _extend(self, entries: list[Entry]) -> None:
        if not entries:
            return
        if len(self._entries) > self._trim_at or self._bytes > self._trim_at_bytes:
            self._trim()
        self._entries += entries
        for entry in entries:
            self._bytes += len(entry.value)
        self.top = entries[-1].id
        self.place = None
        self._tails.tell_soon(self)

    def _trim(self) -> None:
        """Forget the oldest entries, after everybody was told of them; done seldom, for many at once."""
        self.tell_followers()
        drop = max(0, len(self._entries) - self._most)
        size = sum(len(entry.value) for entry in self._entries[:drop])
        while drop < len(self._entries) - 1 and self._bytes - size > self._most_bytes:
            size += len(self._entries[drop].value)
            drop += 1
        if drop:
            self._base = self._entries[drop - 1].id
            self._bytes -= size
            self._told -= drop
            del self._entries[:drop]

    def tell_followers(self) -> None:
        """Have them take what is new."""
        if len(self.followers) == 1:
            next(iter(self.followers)).on_more()
        else:
            self._is_telling = True
            for follower in tuple(self.followers):
                follower.on_more()
            self._is_telling = False
            self._runs.clear()
        self._told, self._told_top = len(self._entries), self._base if self.top is None else self.top

    def tell_place(self, position: int | None) -> None:
        """Let the followers know the chat's place in the queue."""
        place = Place(position) if position is not None else None
        if self.is_waiting and place != self.place:
            self.place = place
            self._tails.tell_soon(self)

    def join(self, follower: Follower) -> None:
        self.followers.add(follower)
        self._share_ring()

    def leave(self, follower: Follower) -> None:
        self.followers.discard(follower)
        self._share_ring()
        if not self.followers:
            self.close()

    def _share_ring(self) -> None:
        self._most = min(_RING_ENTRIES, len(self.followers) * _SHARE_ENTRIES)
        self._most_bytes = min(_RING_BYTES, len(self.followers) * _SHARE_BYTES)
        self._trim_at, self._trim_at_bytes = 2 * self._most, 2 * self._most_bytes

    def close(self) -> None:
        """End every follower's stream, without a terminal event unless it has had one."""
        if not self.is_closed:
            self.is_closed = True
            self._tails.tell_soon(self)
            self._tails.forget(self)


class Tails:
    """This replica's tails, by chat id."""

    def __init__(self, log: ChatLog, queue: JobQueue, subscriber: Subscriber) -> None:
        self._log = log
        self._queue = queue
        self._subscriber = subscriber
        self._tails: dict[str, Tail] = {}
        self._news: dict[Tail, None] = {}
        self._turns = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._is_draining = False

    def follow(self, chat_id: str, after: EntryId, encoder: Encoder, *, cancels_when_left: bool = False) -> Follower:
        """Follow a chat's log from above `after`; the caller must close the follower."""
        tail = self._tails.get(chat_id)
        if tail is None:
            tail = Tail(chat_id, self, self._log, self._turns)
            self._tails[chat_id] = tail
            self._subscriber.subscribe(keys.log(chat_id), tail)
        tail.cancels_when_left = cancels_when_left
        follower = Follower(tail, after, encoder)
        tail.join(follower)
        if self._is_draining:
            tail.close()
        return follower

    def tell_soon(self, tail: Tail) -> None:
        """Have a tail tell its followers once, of all that comes up meanwhile."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._tell)
        self._news[tail] = None

    def _tell(self) -> None:
        news, self._news = self._news, {}
        now = asyncio.get_running_loop().time()
        for tail in news:
            tail.last_heard = now
            tail.tell_followers()

    def forget(self, tail: Tail) -> None:
        del self._tails[tail.chat_id]
        self._subscriber.unsubscribe(keys.log(tail.chat_id))

    def drain(self) -> None:
        """End every stream between two events; those that come later end at once."""
        self._is_draining = True
        for tail in list(self._tails.values()):
            tail.close()

    async def run(self) -> None:
        """Watch over all tails together; ends only by cancellation."""
        while True:
            await asyncio.sleep(_TICK)
            now = asyncio.get_running_loop().time()
            try:
                await self._look_after(tail for tail in self._tails.values() if now - tail.last_heard > _SILENCE)
                await self._tell_places()
                await self._queue.keep_readers(
                    [chat_id for chat_id, tail in self._tails.items() if tail.cancels_when_left and not tail.is_sealed]
                )
            except FAILURES as error:
                logger.warning("tails cannot reach the queue, trying again: %s", error)

    async def _look_after(self, tails: Iterable[Tail]) -> None:
        """Have those refreshed that missed something, with one round trip for all."""
        silent = list(tails)
        if not silent:
            return
        tops = await self._log.tops([tail.chat_id for tail in silent])
        now = asyncio.get_running_loop().time()
        for tail, top in zip(silent, tops, strict=True):
            if tail.is_at(top):
                tail.last_heard = now
            else:
                tail.refresh()

    async def _tell_places(self) -> None:
        waiting = [tail for tail in self._tails.values() if tail.is_waiting]
        if waiting:
            positions = await self._queue.positions([tail.chat_id for tail in waiting])
            for tail, position in zip(waiting, positions, strict=True):
                tail.tell_place(position)
