"""Stops what the upstream goes on generating for chats that have ended without it: cancelled, failed, out of time.

A worker may be dead, or not there yet, when its chat is ended, so this is nobody's chat's business: the script that
ends a chat notes the answer (`shared.log`), and any worker takes it from there. It is done as well as may be: an answer
that cannot be stopped ends by itself.
"""

import asyncio
import logging

from shared.connect import FAILURES
from shared.log import ChatLog
from worker.upstream import Upstream

logger = logging.getLogger(__name__)

_PAUSE = 0.5
_AT_ONCE = 16


class Stopper:
    """Stops what is noted, while `run` runs."""

    def __init__(self, log: ChatLog, upstream: Upstream) -> None:
        self._log = log
        self._upstream = upstream

    async def run(self) -> None:
        """Stop as long as the process lives; ends only by cancellation."""
        while True:
            try:
                for answer in await self._log.take_abandoned(_AT_ONCE):
                    self._upstream.abandon(answer)
            except FAILURES as error:
                logger.warning("cannot look for answers to stop, trying again: %s", error)
            await asyncio.sleep(_PAUSE)
