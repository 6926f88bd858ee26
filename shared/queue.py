"""The queue: chats waiting for a worker. arq's words stop here.

arq keeps its jobs in a sorted set (`keys.QUEUE`, running ones included) plus `arq:job:<id>` each, and finds them by
polling. Beside that we keep an index of the waiting ones, and a doorbell that wakes an idle worker at once; a worker
that listens to neither (plain `arq worker.main.WorkerSettings`) still finds every job by arq's own poll.

Creation is one script: there is no moment in which a chat exists without its job, or a key without its chat.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.jobs import serialize_job
from redis.asyncio import Redis

from shared import events, json_text, keys
from shared.chat import OnDisconnect, OnWorkerLoss, Surface, job_id
from shared.log import LUA_PRELUDE, Fenced, Gone, Sealed

GENERATE = "generate"
"""The name of the one job function."""

JOB_TTL_MS = 86_400_000
"""arq's own default: a job that nobody started for a day is forgotten."""

_BELLS = 1000
"""Bells kept for workers that are busy; the index of waiting jobs finds what rang beyond."""

# Make a job known to arq, to the index and at the door.
_ENQUEUE = f"""
local function enqueue(record, queue, waiting, doorbell, job_key, job_id, payload, created_us)
  redis.call('HSET', record, 'job', job_id)
  redis.call('SET', job_key, payload, 'PX', {JOB_TTL_MS})
  redis.call('ZADD', queue, now_ms(), job_id)
  redis.call('ZADD', waiting, created_us, job_id)
  redis.call('RPUSH', doorbell, job_id)
  redis.call('LTRIM', doorbell, -{_BELLS}, -1)
end
"""

SUBMIT = (
    LUA_PRELUDE
    + _ENQUEUE
    + """
local record, log, waiting, queue, doorbell, job_key, idempotency = unpack(KEYS)
local chat, model, request, fingerprint, on_worker_loss, on_disconnect = unpack(ARGV, 1, 6)
local accepted, max_queue, job_id, payload, surface, origin, retention = unpack(ARGV, 7, 13)
if redis.call('EXISTS', record) == 1 then return {'created', chat} end
if idempotency then
  local first = redis.call('HMGET', idempotency, 'chat', 'fingerprint')
  if first[1] then return {'exists', first[1], first[2]} end
end
local length = redis.call('ZCARD', waiting)
if length >= tonumber(max_queue) then return {'full', length} end
local created_us = now_us()
redis.call('XADD', log, '0-1', 'e', accepted)
redis.call('HSET', record, 'status', 'queued', 'attempt', 0, 'begun', 0, 'failures', 0, 'promotion', promotion(),
  'model', model, 'request', request,
  'on_worker_loss', on_worker_loss, 'on_disconnect', on_disconnect, 'surface', surface, 'origin', origin, 'token', '',
  'created', string.format('%.0f', math.floor(created_us / 1000)), 'created_us', created_us)
if retention ~= '' then redis.call('HSET', record, 'retention', retention) end
if idempotency then
  redis.call('HSET', record, 'idempotency', idempotency)
  redis.call('HSET', idempotency, 'chat', chat, 'fingerprint', fingerprint)
end
enqueue(record, queue, waiting, doorbell, job_key, job_id, payload, created_us)
return {'created', chat}
"""
)

# The new job replaces the one that ran until now (perhaps several attempts), so that a redelivered old one cannot take
# the chat from its successor.
HAND_OVER = (
    LUA_PRELUDE
    + _ENQUEUE
    + """
local record, log, running, waiting, queue, doorbell, job_key = unpack(KEYS, 1, 7)
local chat, token, failed, job_id, payload, old_job_id = unpack(ARGV)
local top, terminal = top_of(log)
if not top then return {'gone'} end
if top == TERMINAL then return {'sealed', terminal} end
local fields = redis.call('HMGET', record, 'token', 'created_us')
if fields[1] ~= token then return {'fenced'} end
redis.call('HSET', record, 'token', '', 'status', 'queued')
redis.call('HDEL', record, 'worker')
redis.call('HINCRBY', record, 'failures', failed)
redis.call('HDEL', running, chat)
redis.call('ZREM', queue, old_job_id)
for i = 8, #KEYS do redis.call('DEL', KEYS[i]) end
enqueue(record, queue, waiting, doorbell, job_key, job_id, payload, fields[2])
return {'handed_over'}
"""
)

_CLAIM_GRACE_MS = 5000

# arq's start_jobs in one step, and without comparing clocks: only one caller gets `in progress`. A job that is in
# progress but not claimed after some seconds lost its worker in between, and is free again.
START = f"""
local in_progress, queue, waiting = unpack(KEYS)
local job_id, in_progress_ms = ARGV[1], tonumber(ARGV[2])
local score = redis.call('ZSCORE', queue, job_id)
if not score then return false end
local age = in_progress_ms - redis.call('PTTL', in_progress)
if age <= {_CLAIM_GRACE_MS} or (age <= in_progress_ms and not redis.call('ZSCORE', waiting, job_id)) then
  return false
end
redis.call('SET', in_progress, '1', 'PX', in_progress_ms)
return score
"""


@dataclass(frozen=True, slots=True)
class NewChat:
    """A chat to create. `request` is the JSON body for the upstream; `fingerprint` stands for the client's own.

    `origin` is JSON that the surface wants back with the chat; `retention_ms` is how long the chat is kept after its
    end, if not as long as others.
    """

    id: str
    model: str
    request: bytes
    fingerprint: str
    idempotency_key: str | None = None
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.RESTART
    on_disconnect: OnDisconnect = OnDisconnect.KEEP
    surface: Surface = Surface.NATIVE
    origin: bytes = b"{}"
    retention_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The chat exists and its job is enqueued."""


@dataclass(frozen=True, slots=True)
class Exists:
    """The idempotency key belongs to `chat_id`, which was created from the body with that fingerprint."""

    chat_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class QueueFull:
    """Nothing was created: `waiting` chats wait already."""

    waiting: int


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The chat's next attempt is enqueued."""


class JobQueue:
    """Puts chats into the queue and tells where they stand in it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._submit = redis.register_script(SUBMIT)
        self._hand_over = redis.register_script(HAND_OVER)
        self._start = redis.register_script(START)

    async def submit(self, chat: NewChat, max_queue: int) -> Created | Exists | QueueFull:
        """Create the chat's key, record, log, job and bell in one step; sent twice, it creates once."""
        first_job = job_id(chat.id, 1)
        chat_keys = [keys.record(chat.id), keys.log(chat.id)]
        queue_keys = [keys.WAITING, keys.QUEUE, keys.DOORBELL, job_key_prefix + first_job]
        reply = await self._submit(
            keys=chat_keys
            + queue_keys
            + ([keys.idempotency(chat.idempotency_key)] if chat.idempotency_key is not None else []),
            args=[
                chat.id,
                chat.model,
                chat.request,
                chat.fingerprint,
                chat.on_worker_loss.value,
                chat.on_disconnect.value,
                events.accepted(),
                max_queue,
                first_job,
                _job(chat.id),
                chat.surface.value,
                chat.origin,
                "" if chat.retention_ms is None else chat.retention_ms,
            ],
        )
        match reply[0]:
            case b"created":
                return Created()
            case b"exists":
                return Exists(reply[1].decode(), reply[2].decode())
            case _:
                return QueueFull(reply[1])

    async def hand_over(self, chat_id: str, token: str, *, failed: bool) -> HandedOver | Sealed | Fenced | Gone:
        """Take the chat from the holder of `token` and enqueue its next attempt; the holder is fenced from then on."""
        # Both change only together with the token, which the script compares.
        attempt, job = await self._redis.hmget(keys.record(chat_id), ["attempt", "job"])  # type: ignore[misc]  # redis-py types two clients at once
        if job is None:
            return Gone()
        old, new = job.decode(), job_id(chat_id, int(attempt) + 1)
        reply = await self._hand_over(
            keys=[
                keys.record(chat_id),
                keys.log(chat_id),
                keys.RUNNING,
                keys.WAITING,
                keys.QUEUE,
                keys.DOORBELL,
                job_key_prefix + new,
                job_key_prefix + old,
                in_progress_key_prefix + old,
                retry_key_prefix + old,
            ],
            args=[chat_id, token, int(failed), new, _job(chat_id), old],
        )
        match reply[0]:
            case b"handed_over":
                return HandedOver()
            case b"sealed":
                return Sealed(reply[1])
            case b"fenced":
                return Fenced()
            case _:
                return Gone()

    async def start(self, job: str, in_progress_ms: int) -> int | None:
        """Take a job as arq's `Worker.start_jobs` does, in one step; its score, or None if it is not to be had."""
        score = await self._start(
            keys=[in_progress_key_prefix + job, keys.QUEUE, keys.WAITING], args=[job, in_progress_ms]
        )
        return int(float(score)) if score is not None else None

    async def waiting(self, count: int) -> list[str]:
        """The first `count` job ids that no worker has claimed, oldest chat first."""
        return [job.decode() for job in await self._redis.zrange(keys.WAITING, 0, count - 1)]

    async def leftovers(self, older_than_ms: int, count: int) -> list[str]:
        """Job ids that arq still keeps, from before any running job can have begun; their chats have ended."""
        horizon = await self._now_ms() - older_than_ms
        jobs = await self._redis.zrangebyscore(keys.QUEUE, "-inf", horizon, start=0, num=count)
        return [job.decode() for job in jobs]

    async def positions(self, chat_ids: Sequence[str]) -> list[int | None]:
        """Each chat's place among the waiting, from 1; None if its first job does not wait (any more)."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for chat_id in chat_ids:
                pipe.zrank(keys.WAITING, job_id(chat_id, 1))
            ranks = await pipe.execute()
        return [rank + 1 if rank is not None else None for rank in ranks]

    async def keep_readers(self, chat_ids: Sequence[str]) -> None:
        """Note that these chats, which are to be cancelled when nobody reads them, are being read."""
        if chat_ids:
            now = await self._now_ms()
            await self._redis.zadd(keys.READ, dict.fromkeys(chat_ids, now))

    async def live_workers(self, lease_ms: int) -> int:
        """How many workers gave a sign of life within the lease, by Redis's clock."""
        return int(await self._redis.zcount(keys.WORKERS, await self._now_ms() - lease_ms, "+inf"))

    async def _now_ms(self) -> int:
        seconds, microseconds = await self._redis.time()
        return int(seconds * 1000 + microseconds // 1000)


def dump_job(job: dict[str, Any]) -> bytes:
    """arq's serialiser: JSON. With its default, pickle, whoever can write to Redis could run code in the workers."""
    return json_text.dumps(job)


def load_job(payload: bytes) -> dict[str, Any]:
    """The inverse of `dump_job`."""
    job: dict[str, Any] = json_text.loads(payload)
    return job


def _job(chat_id: str) -> bytes:
    return serialize_job(GENERATE, (chat_id,), {}, None, int(time.time() * 1000), serializer=dump_job)
