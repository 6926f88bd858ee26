"""Ends the chats that nobody else will end.

They are those that waited too long, those that their last reader left, those that outran even what a worker allows, and
orphans, of which something is missing. Run by every API replica and every worker, so that a chat ends visibly also when
no worker is alive.
"""

import asyncio
import logging
import random
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared import events, keys
from shared.chat import Status
from shared.connect import FAILURES
from shared.cursor import TERMINAL
from shared.log import ChatLog, Gone, Sealed

logger = logging.getLogger(__name__)

_INTERVAL = 1.0
_PAGE = 100
_ABSENCE_MS = 2500
"""How long a chat to be cancelled on disconnect must have been without a reader."""

_SEARCH_INTERVAL = 10.0
_SEARCH_SHARE = 0.01
"""Of the time, at most, is spent on looking at every chat there is."""

_KEYS = 500
_OVERTIME = 30.0
"""Seconds beyond its time-out that a chat's own worker gets to end it."""

_ENDED = {status.encode() for status in Status if status.is_terminal}
_LOST = events.error(
    "Something of the chat was lost in Redis, so that nobody can go on with it.", "server_error", "lost"
)


class Sweep:
    """Looks for such chats every few seconds. Both time-outs are in seconds."""

    def __init__(self, redis: Redis, log: ChatLog, *, queue_timeout: float, job_timeout: float) -> None:
        self._redis = redis
        self._log = log
        self._queue_timeout = queue_timeout
        self._job_timeout = job_timeout
        self._left: dict[bytes, float] = {}

    async def run(self) -> None:
        """Sweep as long as the process lives; ends only by cancellation."""
        while True:
            await asyncio.sleep(_INTERVAL * random.uniform(0.8, 1.2))
            try:
                await self.end_overdue()
                await self.end_left()
                await self.search()
            except FAILURES as error:
                self._left.clear()
                logger.warning("sweep failed, trying again: %s", error)

    async def end_overdue(self) -> None:
        """Fail the chats that no worker took within the queue's time-out.

        The waiting are ordered by the age of the chat; how long one waits is told by when its job was enqueued, which a
        handover does anew.
        """
        seconds, microseconds = await self._redis.time()
        horizon = (seconds - self._queue_timeout) * 1_000_000 + microseconds
        error = events.error(
            f"No worker took the chat within {self._queue_timeout:g} s (PIROPIRO_QUEUE_TIMEOUT).",
            "server_error",
            "queue_timeout",
        )
        old = await self._redis.zrangebyscore(keys.WAITING, "-inf", horizon, start=0, num=_PAGE)
        enqueued = await self._redis.zmscore(keys.QUEUE, old) if old else []
        for job, enqueued_ms in zip(old, enqueued, strict=True):
            if enqueued_ms is not None and enqueued_ms * 1000 > horizon:
                continue
            chat_id = job.decode().rpartition(":")[0]
            if isinstance(await self._log.seal(chat_id, error, only_status=Status.QUEUED), Gone):
                await self._redis.zrem(keys.WAITING, job)

    async def end_left(self) -> None:
        """Cancel the chats that asked for it and have no reader.

        Only what was unread at two sweeps in a row counts: after an outage the replicas need a moment to say again
        what they are reading.
        """
        seconds, microseconds = await self._redis.time()
        horizon = seconds * 1000 + microseconds // 1000 - _ABSENCE_MS
        unread = dict(await self._redis.zrangebyscore(keys.READ, "-inf", horizon, start=0, num=_PAGE, withscores=True))
        for chat_id, last_read in unread.items():
            if self._left.get(chat_id) == last_read:
                await self._log.seal(chat_id.decode(), events.cancelled())
                await self._redis.zrem(keys.READ, chat_id)
        self._left = unread

    async def search(self) -> None:
        """Look at every chat there is, unless somebody else has just done it."""
        if not await self._redis.set(keys.SEARCH, 1, nx=True, px=int(_SEARCH_INTERVAL * 1000)):
            return
        loop = asyncio.get_running_loop()
        began, cursor = loop.time(), None
        while cursor != 0:
            cursor, page = await self._redis.scan(cursor or 0, match=keys.CHATS, count=_KEYS)
            await self.end_lost([*{keys.chat_of(key) for key in page}])
        pause = max(_SEARCH_INTERVAL, (loop.time() - began) / _SEARCH_SHARE)
        await self._redis.set(keys.SEARCH, 1, px=int(pause * 1000))

    async def end_lost(self, chat_ids: Sequence[str]) -> None:
        """End those of the chats that are orphans, or run though their time is long over."""
        seconds, _ = await self._redis.time()
        horizon = (seconds - self._job_timeout - _OVERTIME) * 1000
        timed_out = events.error(
            f"The chat ran longer than {self._job_timeout:g} s (PIROPIRO_JOB_TIMEOUT).", "server_error", "job_timeout"
        )
        async with self._redis.pipeline(transaction=False) as pipe:
            for chat_id in chat_ids:
                pipe.hmget(keys.record(chat_id), ["status", "started"])
                pipe.xrange(keys.log(chat_id), str(TERMINAL), str(TERMINAL), 1)
            rows = await pipe.execute(raise_on_error=False)
        for chat_id, fields, end in zip(chat_ids, rows[::2], rows[1::2], strict=True):
            try:
                status, started = fields
                if end and status in _ENDED:
                    continue
                if isinstance(await self._log.end_orphan(chat_id, _LOST), Sealed):
                    logger.warning("chat %s was an orphan", chat_id)
                elif status == b"running" and started is not None and int(started) < horizon:
                    await self._log.seal(chat_id, timed_out, only_status=Status.RUNNING)
            except (TypeError, ValueError, ResponseError) as error:
                logger.warning("what Redis holds of chat %r cannot be read: %r", chat_id, error)
