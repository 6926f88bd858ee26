"""Liveness: this worker's heartbeat, and the takeover of chats whose worker fell silent.

Safety does not depend on any of this: whoever claims a chat later wins (`shared.log`). A worker beats six times per
lease, for all its chats together. Every worker watches the others' beats: one that has not changed for a whole lease
*while we were looking* is a dead worker's. Looking is timed by our own monotonic clock, begins anew after a failure,
and a long gap between two looks counts as a short one. So an outage or a hang of Redis presumes nobody dead, and a
starved machine only takes longer.
"""

import asyncio
import logging
import random
from dataclasses import dataclass

from redis.asyncio import Redis

from shared import events, keys
from shared.connect import FAILURES
from shared.log import ChatLog
from shared.queue import JobQueue
from worker.generate import Generator

logger = logging.getLogger(__name__)

BEAT = """
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('ZADD', KEYS[1], now, ARGV[1])
return {now, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}
"""

_WORKERS_LOST = events.error("Every worker that generated the answer was lost.", "server_error", "worker_lost")
_BEATS_PER_LEASE = 6
_PATIENCE = 2
"""Beats' intervals after which a beat counts as lost."""

_GAPS_PER_LEASE = 3
"""A third of a lease is the most that the time between two looks may count."""

_AT_ONCE = 8
"""Chats handed over at the same time: the pool's connections are for others as well."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's latest sign of life, as an opaque mark, and its age in seconds when it was read."""

    mark: bytes
    age: float = 0.0


class Watch:
    """Who is presumed dead: pure bookkeeping over the beats seen."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._looked = 0.0
        self._silences: dict[str, tuple[bytes, float]] = {}

    def look(self, beats: dict[str, Beat], now: float) -> list[str]:
        """Note the workers' latest beats at time `now`; the workers that were silent for longer than a lease.

        A beat's age counts as far as one that came in time can have it: the clock that told it may have jumped.
        """
        watched = min(now - self._looked, self._lease / _GAPS_PER_LEASE)
        self._looked = now
        silences = dict[str, tuple[bytes, float]]()
        for worker, beat in beats.items():
            mark, silence = self._silences.get(worker, (None, 0.0))
            if mark == beat.mark:
                silences[worker] = beat.mark, silence + watched
            else:
                silences[worker] = beat.mark, min(max(0.0, beat.age), self._lease / _BEATS_PER_LEASE)
        self._silences = silences
        return [worker for worker, (_, silence) in silences.items() if silence > self._lease]

    def blink(self) -> None:
        """Note that we ourselves could not look: everybody's lease begins anew."""
        self._silences.clear()


class Lease:
    """Beats for one worker, watches the others, and audits that the worker's chats are still its own."""

    def __init__(
        self,
        *,
        redis: Redis,
        log: ChatLog,
        queue: JobQueue,
        worker_id: str,
        lease: float,
        max_attempts: int,
        generator: Generator,
    ) -> None:
        self._redis = redis
        self._log = log
        self._queue = queue
        self._worker_id = worker_id
        self._max_attempts = max_attempts
        self._interval = lease / _BEATS_PER_LEASE
        self._generator = generator
        self._unknown: set[str] = set()
        self._taken_over: set[str] = set()
        self._unlisted: set[str] = set()
        self._watch = Watch(lease)
        self._reached = asyncio.get_running_loop().time()
        self._beat = redis.register_script(BEAT)

    async def run(self) -> None:
        """Beat as long as the worker lives; ends only by cancellation.

        Taking over many chats takes longer than a lease may, so it goes on beside the beats. A beat without an answer
        is soon sent again over another connection: one that hangs must not make a living worker look dead.
        """
        loop, beats, auditing = asyncio.get_running_loop(), 0, None
        async with asyncio.TaskGroup() as beside:
            while True:
                begun = loop.time()
                try:
                    async with asyncio.timeout(_PATIENCE * self._interval):
                        silent = await self.beat()
                    for worker in set(silent) - self._taken_over:
                        self._taken_over.add(worker)
                        beside.create_task(self._take_over(worker))
                    beats += 1
                    if beats % _BEATS_PER_LEASE == 0 and (auditing is None or auditing.done()):
                        auditing = beside.create_task(self._audit())
                except FAILURES as error:
                    self._watch.blink()
                    logger.warning("heartbeat failed, trying again: %s", error)
                await asyncio.sleep(max(0.0, begun + self._interval - loop.time()))

    @property
    def silence(self) -> float:
        """Seconds since a heartbeat last reached Redis (or since the start)."""
        return asyncio.get_running_loop().time() - self._reached

    async def beat(self) -> list[str]:
        """Give a sign of life; the workers that gave none for a lease."""
        now_ms, scores = await self._beat(keys=[keys.WORKERS], args=[self._worker_id])
        beats = {worker: Beat(b"") for worker in self._unlisted}
        for worker, beat_ms in zip(scores[::2], scores[1::2], strict=True):
            beats[worker.decode()] = Beat(beat_ms, (int(now_ms) - float(beat_ms)) / 1000)
        self._unlisted -= {worker.decode() for worker in scores[::2]}
        now = self._reached = asyncio.get_running_loop().time()
        return [worker for worker in self._watch.look(beats, now) if worker != self._worker_id]

    async def _owners(self) -> dict[str, str]:
        running = await self._redis.hgetall(keys.RUNNING)  # type: ignore[misc]  # redis-py types two clients at once
        return {chat_id.decode(): worker.decode() for chat_id, worker in running.items()}

    async def _take_over(self, dead: str) -> None:
        """Hand over a silent worker's chats; if that fails, the next beat finds it silent still."""
        try:
            chats = [chat_id for chat_id, worker in (await self._owners()).items() if worker == dead]
            random.shuffle(chats)  # every worker does the same just now: each begins elsewhere
            logger.warning("worker %s is silent: handing over its %d chats", dead, len(chats))
            for start in range(0, len(chats), _AT_ONCE):
                await asyncio.gather(*(self._reassign(chat_id, dead) for chat_id in chats[start : start + _AT_ONCE]))
            await self._redis.zrem(keys.WORKERS, dead)
            self._unlisted.discard(dead)
        except FAILURES as error:
            self._watch.blink()
            logger.warning("handing over failed, trying again: %s", error)
        finally:
            self._taken_over.discard(dead)

    async def _reassign(self, chat_id: str, worker: str) -> None:
        """Enqueue the next attempt of a chat that is still `worker`'s, or end it if its attempts are used up."""
        token, owner, failures = await self._redis.hmget(  # type: ignore[misc]  # redis-py types two clients at once
            keys.record(chat_id), ["token", "worker", "failures"]
        )
        if token is None:
            await self._redis.hdel(keys.RUNNING, chat_id)  # type: ignore[misc]  # the same
        elif owner != worker.encode():
            return
        elif int(failures) + 1 >= self._max_attempts:
            await self._log.seal(chat_id, _WORKERS_LOST, only_token=token.decode())
        else:
            await self._queue.hand_over(chat_id, token.decode(), failed=True)

    async def _audit(self) -> None:
        try:
            await self.audit()
        except FAILURES as error:
            logger.warning("audit failed, trying again: %s", error)

    async def audit(self) -> None:
        """Compare what this worker is doing with what Redis has it do, both ways.

        An attempt whose chat is not its own any more asks the log, in case the notice went astray. A chat that Redis
        thinks is running here, while nobody here knows of it, is handed over: a failover forgot its end. It must be so
        at two audits in a row, because a claim reaches Redis before its answer reaches us. Owners that never beat, or
        whose beats were forgotten, are watched from now on.
        """
        attempts = list(self._generator.running.values())
        owners = await self._log.owners([attempt.chat_id for attempt in attempts]) if attempts else []
        for attempt, owner in zip(attempts, owners, strict=True):
            if owner != attempt.token.encode():
                attempt.doubt()
        owner_of = await self._owners()
        listed = await self._redis.zrange(keys.WORKERS, 0, -1)
        self._unlisted = set(owner_of.values()) - {worker.decode() for worker in listed}
        assigned = {chat_id for chat_id, worker in owner_of.items() if worker == self._worker_id}
        unknown = assigned - self._generator.held
        for chat_id in unknown & self._unknown:
            await self._reassign(chat_id, self._worker_id)
        self._unknown = unknown

    async def resign(self) -> None:
        """Leave the list of workers, at an orderly end."""
        await self._redis.zrem(keys.WORKERS, self._worker_id)
