"""An arq worker that is woken instead of polling.

arq finds jobs by polling its sorted set, running jobs included, with several round trips for each. This worker takes
the job that the doorbell names, in one round trip, and only while it has a free slot (a full one would swallow the
bell). A slow poll over the waiting jobs alone stays as the safety net for bells that were lost.

It overrides `main`, `close`, `start_jobs` and `_poll_iteration` of arq 0.28's `Worker` (arq/worker.py), and leaves job
format, results, cron and the course of a shutdown as they are.
"""

import asyncio
import contextlib
import logging
from typing import Any

from arq.worker import Worker
from redis.asyncio import Redis

from shared import keys
from shared.connect import FAILURES
from shared.queue import JobQueue

logger = logging.getLogger(__name__)

_BELL_WAIT = 1
"""Seconds of one BLMPOP; also how long a stopping worker may hold a bell."""

_BELLS = 4
"""Taken at once: one at a time takes long in a rush, and many would leave none for other workers."""

_POLLED = 100
_POLLS_PER_CLEANING = 60
_RETRY_PAUSE = 0.2
_LAST_WORDS = 5.0
"""Seconds for the jobs that were cancelled at the end to hand their chats over and for arq to note it."""

_GOODBYE = 1.0


class DoorbellWorker(Worker):
    """Runs the same settings as arq's own worker. `bell` needs a connection of its own: it blocks."""

    def __init__(self, *, queue: JobQueue, bell: Redis, **options: Any) -> None:
        super().__init__(**options)
        self._queue = queue
        self._bell = bell
        self._is_started = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._polls = 0

    @property
    def _free_slots(self) -> int:
        return self.max_jobs - self.job_counter if self.allow_pick_jobs else 0

    async def main(self) -> None:
        """Poll as arq does, and answer the doorbell beside it."""
        answering = asyncio.create_task(self._answer_doorbell())
        try:
            await self._start_and_poll()
        finally:
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering
            await self._bell.aclose()

    async def _start_and_poll(self) -> None:
        """arq's `main`, again if it fails before the start: it asks Redis for its version, to log it, only once."""
        while True:
            try:
                await super().main()
            except FAILURES as error:
                if self._is_started.is_set():
                    raise
                logger.warning("Redis unreachable at the start, trying again: %s", error)
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                return

    async def close(self) -> None:
        """Shut down as arq does, but to the end, and soon, also when Redis does not answer."""
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=_LAST_WORDS)
        with contextlib.suppress(TimeoutError, *FAILURES):
            async with asyncio.timeout(_GOODBYE):
                await self.pool.delete(self.health_check_key)
        if self.on_shutdown is not None:
            await self.on_shutdown(self.ctx)
        await self.pool.aclose(close_connection_pool=True)

    async def _answer_doorbell(self) -> None:
        # A job that began before `on_startup` is through would find nothing to work with.
        await self._is_started.wait()
        while True:
            while self._free_slots <= 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
            try:
                count = min(self._free_slots, _BELLS)
                rung = await self._bell.blmpop(_BELL_WAIT, 1, keys.DOORBELL, direction="LEFT", count=count)  # type: ignore[misc, arg-type]  # redis-py types two clients at once
                if rung is None:
                    continue
                reserved = self._reserve(rung[1])
                try:
                    if left := rung[1][len(reserved) :]:
                        await self._bell.rpush(keys.DOORBELL, *left)  # type: ignore[misc]  # the same
                finally:
                    await self._start_reserved(reserved)
            except FAILURES as error:
                logger.warning("doorbell unreachable, trying again: %s", error)
                await asyncio.sleep(_RETRY_PAUSE)
            except Exception:
                logger.exception("answering the doorbell failed, trying again")
                await asyncio.sleep(_RETRY_PAUSE)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start each job that nobody else has, while there are free slots; all at the same time."""
        await self._start_reserved(self._reserve(job_ids))

    def _reserve(self, job_ids: list[bytes]) -> list[str]:
        """Give as many of the jobs a slot as there are; at once, so that nobody else counts on the same slots."""
        fitting = job_ids[: max(0, self._free_slots)]
        self.job_counter += len(fitting)
        return [job_id.decode() for job_id in fitting]

    async def _start_reserved(self, job_ids: list[str]) -> None:
        outcomes = await asyncio.gather(*map(self._start_job, job_ids), return_exceptions=True)
        for error in outcomes:
            if error is not None:
                raise error

    async def _start_job(self, job_id: str) -> None:
        """Start a job that has a slot, or free the slot."""
        try:
            score = await self._queue.start(job_id, int(self.in_progress_timeout_s * 1000))
        except BaseException:
            self.job_counter -= 1
            raise
        if score is None:
            self.job_counter -= 1
            return
        task = self.loop.create_task(self.run_job(job_id, score))
        self.tasks[job_id] = task
        task.add_done_callback(lambda task: self._end_job(job_id, task))

    def _end_job(self, job_id: str, task: asyncio.Task[Any]) -> None:
        self.job_counter -= 1
        self._slot_freed.set()
        self.tasks.pop(job_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The job's own errors end in its chat; what is left is Redis failing while arq tidied up.
            logger.warning("arq could not tidy up job %s: %r", job_id, error)

    async def _poll_iteration(self) -> None:
        self._is_started.set()
        try:
            if self._free_slots > 0:
                waiting = await self._queue.waiting(min(self._free_slots, _POLLED))
                await self.start_jobs([job_id.encode() for job_id in waiting])
            self._polls += 1
            if self._polls % _POLLS_PER_CLEANING == 0:
                left = await self._queue.leftovers(int(self.in_progress_timeout_s * 1000), _POLLED)
                await self.start_jobs([job_id.encode() for job_id in left])
            await self.heart_beat()
        except FAILURES as error:
            logger.warning("queue unreachable, trying again: %s", error)
