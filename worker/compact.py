"""Compacts the logs of the chats that this worker was through with: an ended chat is kept long, and mostly unread.

It is housekeeping: a log that is not compacted is only larger. So it is done one at a time, beside everything else,
and where it fails, or too much of it waits, or the worker stops, it is not done. `ChatLog.compact` says why no reader
notices.
"""

import asyncio
import logging
from contextlib import suppress

from shared.connect import FAILURES
from shared.log import ChatLog

logger = logging.getLogger(__name__)

_BACKLOG = 1000


class Compactor:
    """Compacts what it is told of, while `run` runs."""

    def __init__(self, log: ChatLog) -> None:
        self._log = log
        self._backlog = asyncio.Queue[str](_BACKLOG)

    def add(self, chat_id: str) -> None:
        """Compact the chat's log soon, if it has ended."""
        with suppress(asyncio.QueueFull):
            self._backlog.put_nowait(chat_id)

    async def run(self) -> None:
        """Compact as long as the process lives; ends only by cancellation."""
        while True:
            chat_id = await self._backlog.get()
            try:
                await self._log.compact(chat_id)
            except FAILURES as error:
                logger.warning("log of %s not compacted: %s", chat_id, error)
            except Exception:
                logger.exception("log of %s not compacted", chat_id)
