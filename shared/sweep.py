"""Ends the chats that nobody else will end: those that waited too long, and those that their last reader left.

Run by every API replica and every worker, so that a chat ends visibly also when no worker is alive.
"""

import asyncio
import logging
import random

from redis.asyncio import Redis

from shared import events, keys
from shared.chat import Status
from shared.connect import FAILURES
from shared.log import ChatLog, Gone

logger = logging.getLogger(__name__)

_INTERVAL = 1.0
_PAGE = 100
_ABSENCE_MS = 2500
"""How long a chat to be cancelled on disconnect must have been without a reader."""


class Sweep:
    """Looks for overdue chats every few seconds. `queue_timeout` is in seconds."""

    def __init__(self, redis: Redis, log: ChatLog, queue_timeout: float) -> None:
        self._redis = redis
        self._log = log
        self._queue_timeout = queue_timeout
        self._left: dict[bytes, float] = {}

    async def run(self) -> None:
        """Sweep as long as the process lives; ends only by cancellation."""
        while True:
            await asyncio.sleep(_INTERVAL * random.uniform(0.8, 1.2))
            try:
                await self.end_overdue()
                await self.end_left()
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
