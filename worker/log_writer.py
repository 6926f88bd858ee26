"""Group commit: one writer per worker process appends the chunks of all its jobs.

While one flush is in flight, further chunks gather; when it returns, all of them go out together. A flush of many logs
is also followed by a short pause, in proportion, since each flush costs both ends as much again as some chunks. So an
idle system adds no delay, a busy one batches by itself, and no job waits for Redis per chunk. A flush whose reply was
lost is sent again: the script answers from where to go on, so nothing is stored twice (see `shared.log`).

An attempt's chunks are kept until it ends, stored or not: a failover may forget what it acknowledged, and the writer
can then append it anew. They are bounded by `PIROPIRO_MAX_OUTPUT`.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from itertools import accumulate

from shared.connect import FAILURES
from shared.cursor import EntryId
from shared.log import APPENDED, Appended, AppendResult, Batch, Behind, ChatLog, Fenced, Gone, Sealed, Unserved

logger = logging.getLogger(__name__)

_BATCH_VALUES = 64
_BATCH_BYTES = 262_144
"""What one flush takes of an attempt: the less, the sooner it is the others' turn, and that of chats that begin."""

_MANY_LOGS = 4
_LASTING = 0.01
_PAUSE_PER_LOG = 0.0003
_LONGEST_PAUSE = 0.006
"""Seconds from the beginning of a flush to the beginning of the next one, by the logs in the first: if they are many,
and have been so `_LASTING` seconds before at most. Else it is a burst that is over soon."""

_PENDING_VALUES = 256
_PENDING_BYTES = 262_144
"""What one attempt may have unstored: beyond it, its job stops reading the upstream."""


class LogLost(Exception):
    """The attempt can append nothing more: it was fenced, or the chat was sealed by somebody else or is gone."""


class AttemptLog:
    """The log as one attempt writes it. Made by `LogWriter.open`."""

    def __init__(
        self,
        chat_id: str,
        token: str,
        attempt: int,
        before: int,
        mark: Callable[["AttemptLog"], None],
        on_lost: Callable[[], object],
        reclaim: Callable[[], Awaitable[bool]],
    ) -> None:
        self.chat_id = chat_id
        self.token = token
        self.attempt = attempt
        self._before = before
        self.size = 0
        self._mark = mark
        self._on_lost = on_lost
        self.reclaim = reclaim
        self._values: list[bytes] = []
        self._stored = 0
        self._pending_bytes = 0
        self._terminal: bytes | None = None
        self._end: Sealed | Fenced | Gone | None = None
        self._progress = asyncio.Event()
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """See `close`."""
        return self._is_closed

    @property
    def is_lost(self) -> bool:
        """Nothing more can be appended, and it was not this attempt that sealed the log."""
        return self._end is not None and not (isinstance(self._end, Sealed) and self._end.terminal == self._terminal)

    @property
    def is_full(self) -> bool:
        """So much is not stored yet that the caller should await `room` before it appends more."""
        return self._pending_bytes > _PENDING_BYTES or len(self._values) - self._stored > _PENDING_VALUES

    def append(self, value: bytes) -> None:
        """Queue the attempt's next chunk for storage; never blocks.

        Raises:
            LogLost: see there.
        """
        if self._end is not None:
            raise LogLost
        self._values.append(value)
        self.size += len(value)
        self._pending_bytes += len(value)
        self._mark(self)

    async def room(self) -> None:
        """Wait until enough is stored that more may be appended.

        Raises:
            LogLost: see there.
        """
        await self._until(lambda: not self.is_full)

    async def flushed(self) -> None:
        """Wait until everything appended is stored, the terminal entry included if there is one.

        Raises:
            LogLost: see there.
        """
        await self._until(
            lambda: self._stored == len(self._values) and (self._terminal is None or self._end is not None)
        )

    async def seal(self, terminal: bytes) -> None:
        """Store what is left and then `terminal`; return when it is stored.

        Raises:
            LogLost: see there; the log may hold another terminal entry.
        """
        self._terminal = terminal
        self._mark(self)
        await self._until(lambda: self._end is not None)

    async def _until(self, is_true: Callable[[], bool]) -> None:
        while not self.is_lost and not is_true():
            self._progress.clear()
            await self._progress.wait()
        if self.is_lost:
            raise LogLost

    def doubt(self) -> None:
        """Have the writer ask whether the log is still this attempt's."""
        self._mark(self)

    def close(self) -> None:
        """Store nothing more and tell nobody: the job is through with this attempt."""
        self._is_closed = True

    def lose(self, end: Sealed | Fenced | Gone) -> None:
        """Note that the log is not this attempt's any more, and tell the job."""
        if self._end is None:
            self._end = end
            self._progress.set()
            if self.is_lost and not self._is_closed:
                self._on_lost()

    def next_batch(self) -> Batch:
        """What to send next: a bounded run of what is not stored, then the terminal entry if that is all."""
        start = self._stored
        values = self._values[start : start + _BATCH_VALUES]
        if self._pending_bytes > _BATCH_BYTES:
            values = _fitting(values)
        terminal = self._terminal if start + len(values) == len(self._values) else None
        return Batch(self.chat_id, self.token, self.attempt, self._before, start + 1, values, terminal)

    def settle(self, batch: Batch, result: Appended | Behind | Sealed | Fenced | Gone) -> None:
        """Take the log's answer to a batch."""
        match result:
            case Appended():
                self._store(batch.first_seq - 1 + len(batch.values))
            case Behind(top) if EntryId(self.attempt, 0) <= top <= EntryId(self.attempt, len(self._values)):
                self._store(top.seq)
            case Behind():
                self.lose(Fenced())
            case _:
                self.lose(result)

    def _store(self, seq: int) -> None:
        if seq > self._stored:
            self._pending_bytes -= sum(map(len, self._values[self._stored : seq]))
        else:
            self._pending_bytes += sum(map(len, self._values[seq : self._stored]))
        self._stored = seq
        self._progress.set()
        if seq < len(self._values) or self._terminal is not None:
            self._mark(self)


class LogWriter:
    """Flushes every `AttemptLog` it opened, while `run` runs."""

    def __init__(self, log: ChatLog) -> None:
        self._log = log
        self._dirty: dict[AttemptLog, None] = {}
        self._is_dirty = asyncio.Event()

    def open(
        self,
        chat_id: str,
        token: str,
        attempt: int,
        before: int,
        *,
        on_lost: Callable[[], object],
        reclaim: Callable[[], Awaitable[bool]],
    ) -> AttemptLog:
        """Begin writing an attempt that `token` has claimed; `before` is the log's length then (`Claimed.length`).

        `on_lost` is called once if the log is taken from it; `reclaim` has it back if only its claim was forgotten.
        """
        return AttemptLog(chat_id, token, attempt, before, self._mark, on_lost, reclaim)

    def _mark(self, log: AttemptLog) -> None:
        if not self._dirty:
            self._is_dirty.set()
        self._dirty[log] = None

    async def run(self) -> None:
        """Flush as long as the process lives; ends only by cancellation."""
        pause = due = crowded = 0.0
        while True:
            await self._is_dirty.wait()
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            self._is_dirty.clear()
            logs, self._dirty = [log for log in self._dirty if not log.is_closed], {}
            if not logs:
                continue
            if len(logs) >= _MANY_LOGS:
                now = time.monotonic()
                if now - crowded < _LASTING:
                    due = now + min(_PAUSE_PER_LOG * len(logs), _LONGEST_PAUSE)
                crowded = now
            if await self._flush(logs):
                pause = 0.0
            else:
                pause = min(max(2 * pause, 0.05), 1.0)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _flush(self, logs: list[AttemptLog]) -> bool:
        """Store one batch of each log; False if some must be sent again after a pause."""
        batches = [log.next_batch() for log in logs]
        try:
            replies = await self._log.append(batches)
            results = [
                reply if reply is APPENDED else await _reclaimed(log, reply)
                for log, reply in zip(logs, replies, strict=True)
            ]
        except FAILURES as error:
            logger.warning("append failed, trying again: %s", error)
            for log in logs:
                self._mark(log)
            return False
        refusal: Unserved | None = None
        for log, batch, result in zip(logs, batches, results, strict=True):
            if isinstance(result, Unserved):
                refusal = result
                self._mark(log)
            else:
                log.settle(batch, result)
        if refusal is not None:
            logger.warning("append refused, trying again: %s", refusal.reason)
        return refusal is None


def _fitting(values: list[bytes]) -> list[bytes]:
    """The first of them, up to the one that makes a batch large enough."""
    sizes = accumulate(map(len, values), initial=0)
    return [value for value, before in zip(values, sizes, strict=False) if before < _BATCH_BYTES]


async def _reclaimed(log: AttemptLog, reply: AppendResult) -> AppendResult:
    """The log's answer, unless it fenced an attempt whose claim a failover forgot and which could claim it anew."""
    if not isinstance(reply, Fenced) or not await log.reclaim():
        return reply
    logger.warning("a failover forgot the claim of %s: claimed anew", log.chat_id)
    return Behind(EntryId(log.attempt, 0))
