r"""The chat's log: one Redis stream per chat whose entry ids are chosen by the writer.

The theory, once
================

    0-1                accepted: written together with the record (shared.queue)
    <attempt>-0        the attempt begins: `started`, or `restart` if it supersedes chunks; 1, 2, 3 …, but see below
    <attempt>-<seq>    the seq-th chunk of that attempt, from 1, without holes
    TERMINAL           done, error or cancelled, at the largest id there is

Redis refuses an XADD whose id is not above the stream's top. So order, attempt and position are one number, and three
things follow from it: what a presumed-dead worker still writes (`1-38` below a `2-0`) is refused, the same entry sent
twice is refused, and nothing can follow the terminal entry, so that exactly one of two racing terminal entries wins.

An id names no owner, though, and two attempts of one number would share ids; and after a failover the top can lie
*below* what the writer was told is stored, where XADD would happily leave a hole. So all writing goes through the
scripts below, which also check that the record's claim token is the writer's and that the top is the batch's
predecessor. Every script is atomic and idempotent: sent again after a lost reply, it changes nothing and answers the
same, or tells the writer from where to go on. (A full server refuses a script in the middle, at the first command that
may take memory; so that is always the first that changes anything.) Hence:

* at any time at most one token can append, and claiming replaces it: the later claim wins, the earlier is fenced;
* a claim that a failover forgot is claimed again under the same number by its own holder only (`reclaim`). Anybody else
  must not give the number, with which readers may have seen other chunks, a second meaning: the first claim on a server
  that was promoted after the record was written takes its number from the clock;
* a log is a sequence without holes, up to its top, always;
* status, owner and retention change in the same script as the log, so they never disagree with it.

Publication: each script publishes what it appended on the channel named like the log, as

    <predecessor id> <first id> <length>,<length>,…\n<values, concatenated>

Chunks go without a predecessor, which is the entry of the number before, and a chunk alone without its length. A reader
whose top is the predecessor has missed nothing; any other reader reads the stream.

Compaction: a sealed log changes no more, so its many small rows may be replaced by few that hold the same entries
(`shared.packing`). All reading goes through this module, which gives entries either way, so that no reader can tell,
not even one that is in the middle. It is an optimistic transaction: the key is watched from before its first row is
read, so that the replacement takes place only if nobody has touched the log in between and it has not expired; neither
does it on another server than the one that was read. Its rows are made under another key and then copied over the log,
TTL included, so that any moment has one or the other whole. (A full server refuses the transaction as a whole.)
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoScriptError, WatchError

from shared import events, keys
from shared.chat import Chat
from shared.cursor import ACCEPTED, MAX_PART, START, TERMINAL, EntryId, new_tuple
from shared.events import Entry
from shared.packing import PACKED, Row, cut, pack_rows, unpack_rows
from shared.wire import Command, Requests

_SPACE = 0x20
_PAGE = 512
"""Rows that a compaction reads at once, and so the longest run it makes."""

_RUNS = 3
"""Rows of a compacted log that are read at once: the one that holds the reader's position, and two more."""

_SCRIPT_VALUES = 256
"""Values after which an append goes on in a further script, so that no script holds up the others for long."""

_NO_KEY, _NO_EXPIRY = -2, -1
"""What Redis says instead of the time when a key expires."""

_WORTHWHILE = 32
"""Rows below which a log is not compacted."""

_COMPACT_BYTES = 524_288
"""Bytes above which a compacted log stays as it was: a reader that does not know yet that it is sealed may fetch all of
it at once, since rows are what Redis counts."""

LUA_PRELUDE = """
local TERMINAL = '18446744073709551615-18446744073709551615'
local STATUS = {D = 'done', E = 'failed', X = 'cancelled'}

local function now_us()
  local t = redis.call('TIME')
  return string.format('%.0f', t[1] * 1000000 + t[2])
end

local function now_ms()
  local t = redis.call('TIME')
  return string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
end

-- The id and value of the log's last entry; nil for a log that is gone.
local function top_of(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if last then return last[1], last[2][2] end
end

-- Which promotion of a replica made this server the master; empty if none did.
local function promotion()
  local info = redis.pcall('INFO', 'replication')
  if type(info) ~= 'string' or not string.find(info, 'second_repl_offset:%d') then return '' end
  return string.match(info, 'master_replid:(%x+)')
end

local function publish(log, predecessor, first, values)
  local lengths = {}
  for i = 1, #values do lengths[i] = #values[i] end
  redis.call('PUBLISH', log,
    predecessor .. ' ' .. first .. ' ' .. table.concat(lengths, ',') .. '\\n' .. table.concat(values))
end

-- Note that the upstream is to stop an answer: its chat has ended without it.
local function abandon(answer)
  redis.call('ZADD', 'piropiro:abandoned', now_ms(), answer)
  redis.call('PEXPIRE', 'piropiro:abandoned', 3600000)
end

-- What follows from the terminal entry `value`. The record's idempotency key lives as long as the record, and is known
-- only from it; so is a retention of the chat's own, and what the upstream calls its answer.
local function conclude(record, log, running, waiting, chat, value, retention)
  local attempt = redis.call('HGET', record, 'attempt')
  if attempt then
    redis.call('HSET', record, 'status', STATUS[string.sub(value, 1, 1)], 'finished', now_ms())
    local answer = string.sub(value, 1, 1) ~= 'D' and redis.call('HGET', record, 'upstream')
    if answer then abandon(answer) end
  end
  retention = redis.call('HGET', record, 'retention') or retention
  redis.call('PEXPIRE', log, retention)
  redis.call('HDEL', running, chat)
  if not attempt then return end
  redis.call('ZREM', waiting, redis.call('HGET', record, 'job') or '')
  redis.call('PEXPIRE', record, retention)
  local idempotency = redis.call('HGET', record, 'idempotency')
  if idempotency then redis.call('PEXPIRE', idempotency, retention) end
end

-- Make `value` the terminal entry; the caller publishes it.
local function seal(record, log, running, waiting, chat, value, retention)
  redis.call('XADD', log, TERMINAL, 'e', value)
  conclude(record, log, running, waiting, chat, value, retention)
end
"""

CLAIM = (
    LUA_PRELUDE
    + """
local record, log, running, waiting = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local chat, token, worker, previous, reason, failed, forgotten, predecessor = unpack(ARGV)
local top, terminal = top_of(log)
if not top then return {'gone'} end
if top == TERMINAL then return {'sealed', terminal} end
local fields = redis.call('HMGET', record,
  'token', 'attempt', 'on_worker_loss', 'model', 'request', 'refused', 'begun', 'promotion', 'job', 'upstream')
local owner, attempt, on_worker_loss, model, request, refused, begun, promoted, job, answer = unpack(fields)
if not attempt then return {'gone'} end
if owner == token and refused == token then return {'refused'} end
local goes_on = on_worker_loss == 'continue' or answer
if owner ~= token then
  local now_promoted = promotion()
  if forgotten ~= '' then
    if owner ~= previous or top ~= predecessor then return {'fenced'} end
    attempt = tonumber(forgotten)
  else
    if previous ~= '' and owner ~= previous then return {'fenced'} end
    attempt = attempt + 1
    if promoted ~= now_promoted then
      attempt = math.max(math.ceil(attempt / 1000), tonumber(redis.call('TIME')[1])) * 1000 + 1
    end
  end
  -- Entries that are neither 0-1 nor the beginning of an attempt are chunks.
  local has_chunks = redis.call('XLEN', log) > begun + 1
  local begin = 'S' .. cjson.encode({model = model, token = token})
  if has_chunks and not goes_on then
    begin = 'R' .. cjson.encode({reason = reason, token = token})
  end
  redis.call('HSETNX', record, 'started', now_ms())
  redis.call('HSET', record, 'token', token, 'worker', worker, 'status', 'running')
  redis.call('ZREM', waiting, job)
  redis.call('HINCRBY', record, 'failures', failed)
  redis.call('HSET', running, chat, worker)
  if has_chunks and on_worker_loss == 'fail' then
    -- The caller owns the chat, to seal it: no attempt begins.
    redis.call('HSET', record, 'refused', token)
    return {'refused'}
  end
  begun = redis.call('HINCRBY', record, 'begun', 1)
  redis.call('HSET', record, 'attempt', attempt, 'promotion', now_promoted, 'predecessor', top)
  redis.call('XADD', log, attempt .. '-0', 'e', begin)
  publish(log, top, attempt .. '-0', {begin})
end
local continues = redis.call('XLEN', log) > begun + 1 and goes_on
local counted = redis.call('HMGET', record, 'started', 'failures', 'predecessor', 'lost')
local started, failures, before, lost = unpack(counted)
return {'claimed', tonumber(attempt), now_ms() - started, tonumber(failures), request, continues and 1 or 0, before,
  redis.call('XLEN', log), answer or '', tonumber(lost or 0)}
"""
)

# The hottest of all: chunks of many chats, as long as there is nothing to say but that they are stored. It answers
# which batches (from 1) are not, for whatever reason: APPEND then tells. Under one token a log only grows, so that its
# length says which state it is in, and that is the cheapest thing to ask for. Only a seal after a failover's loss may
# be of the same length, and Redis refuses the XADD then.
APPEND_CHUNKS = """
local left, at = {}, 1
for i = 1, #KEYS, 2 do
  local log, token, attempt, first, count = KEYS[i + 1], ARGV[at], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local values = at + 5
  local is_next = redis.call('XLEN', log) == tonumber(ARGV[at + 1]) and redis.call('HGET', KEYS[i], 'token') == token
  if not is_next or redis.pcall('XADD', log, attempt .. '-' .. first, 'e', ARGV[values])['err'] then
    left[#left + 1] = (i + 1) / 2
  else
    local header, text = attempt .. '-' .. first, ARGV[values]
    if count > 1 then
      local lengths = {#text}
      for n = 1, count - 1 do
        redis.call('XADD', log, attempt .. '-' .. (first + n), 'e', ARGV[values + n])
        lengths[n + 1] = #ARGV[values + n]
      end
      header, text = header .. ' ' .. table.concat(lengths, ','), table.concat(ARGV, '', values, values + count - 1)
    end
    redis.call('PUBLISH', log, header .. '\\n' .. text)
  end
  at = values + count
end
return left
"""

APPEND = (
    LUA_PRELUDE
    + """
local record, log = KEYS[1], KEYS[2]
local token, predecessor, attempt, seq = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local terminal, chat, retention = ARGV[5], ARGV[6], ARGV[7]
local top, value = top_of(log)
if not top then return {'gone'} end
if top == TERMINAL then return {'sealed', value} end
if redis.call('HGET', record, 'token') ~= token then return {'fenced'} end
if top ~= predecessor then return {'behind', top} end
if not ARGV[8] and terminal == '' then return {'appended'} end
for i = 8, #ARGV do redis.call('XADD', log, attempt .. '-' .. (seq + i - 8), 'e', ARGV[i]) end
local values = {unpack(ARGV, 8)}
local first = values[1] and (attempt .. '-' .. ARGV[4]) or TERMINAL
if terminal ~= '' then
  seal(record, log, KEYS[3], KEYS[4], chat, terminal, retention)
  values[#values + 1] = terminal
end
publish(log, predecessor, first, values)
if terminal ~= '' then return {'sealed', terminal} end
return {'appended'}
"""
)

SEAL = (
    LUA_PRELUDE
    + """
local record, log, running, waiting = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local chat, value, retention, only_token, only_status = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local top, terminal = top_of(log)
if not top then return {'gone'} end
if top == TERMINAL then return {'sealed', terminal} end
local fields = redis.call('HMGET', record, 'token', 'status', 'worker')
if only_token ~= '' and fields[1] ~= only_token then return {'fenced'} end
if only_status ~= '' and fields[2] ~= only_status then return {'fenced'} end
seal(record, log, running, waiting, chat, value, retention)
publish(log, top, TERMINAL, {value})
if fields[3] then redis.call('PUBLISH', 'piropiro:worker:' .. fields[3], chat) end
return {'sealed', value}
"""
)

# What no script leaves behind, but an evicted key, a wrong restore or a careless hand may: a log or a record alone, two
# that disagree, or a chat for which no job waits and no worker runs. A record without a log gets one that holds nothing
# but the end.
END_ORPHAN = (
    LUA_PRELUDE
    + """
local record, log, running, waiting = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local chat, value, retention = ARGV[1], ARGV[2], ARGV[3]
local top, terminal = top_of(log)
local status, job = unpack(redis.call('HMGET', record, 'status', 'job'))
local is_open = status == 'queued' or status == 'running'
if top == TERMINAL then
  if is_open then conclude(record, log, running, waiting, chat, terminal, retention) end
  return {'sealed', terminal}
end
if not top and not status then return {'gone'} end
local is_waiting = job and redis.call('ZSCORE', waiting, job) and redis.call('ZSCORE', KEYS[5], job)
if top and is_open and (is_waiting or redis.call('HEXISTS', running, chat) == 1) then return {'fenced'} end
seal(record, log, running, waiting, chat, value, retention)
publish(log, top or '0-0', TERMINAL, {value})
return {'sealed', value}
"""
)

# Which of the upstream's answers the chunks are, so that a later attempt can have the rest of it; or that it is lost.
NOTE_ANSWER = (
    LUA_PRELUDE
    + """
local record, token, answer = KEYS[1], ARGV[1], ARGV[2]
local owner, status = unpack(redis.call('HMGET', record, 'token', 'status'))
if owner and owner ~= token then return 0 end
if status ~= 'running' then  -- the chat has ended or was deleted
  if answer ~= '' then abandon(answer) end
  return 0
end
if answer ~= '' then
  redis.call('HSET', record, 'upstream', answer)
else
  redis.call('HINCRBY', record, 'lost', 1)
  redis.call('HDEL', record, 'upstream')
end
return 1
"""
)

# Whoever reads the log is told of its end first. The idempotency key may be a later chat's by now, after a failover.
DELETE = (
    LUA_PRELUDE
    + """
local record, log, running, waiting, read = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local chat, value = ARGV[1], ARGV[2]
local top = top_of(log)
local worker, idempotency = unpack(redis.call('HMGET', record, 'worker', 'idempotency'))
local existed = top or worker or redis.call('EXISTS', record) == 1
if top and top ~= TERMINAL then
  seal(record, log, running, waiting, chat, value, 1000)
  publish(log, top, TERMINAL, {value})
  if worker then redis.call('PUBLISH', 'piropiro:worker:' .. worker, chat) end
end
redis.call('HDEL', running, chat)
redis.call('ZREM', waiting, redis.call('HGET', record, 'job') or '')
redis.call('ZREM', read, chat)
if idempotency and redis.call('HGET', idempotency, 'chat') == chat then redis.call('DEL', idempotency) end
redis.call('DEL', record, log)
return existed and 1 or 0
"""
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The attempt is the caller's, until a later claim.

    `elapsed_ms` is the time since the chat's first attempt began; `failures` counts the failed attempts before this;
    `continues` says that the chunks of earlier attempts stand, and that this one is to go on after them; `predecessor`
    was the log's top before, and `length` is how many entries it has now, the attempt's own beginning included.
    `answer` is what the upstream calls the answer that an earlier attempt began, if this one can have the rest of it
    (else empty); `lost` counts the answers that were begun and lost.
    """

    attempt: int
    elapsed_ms: int
    failures: int
    request: bytes
    continues: bool
    predecessor: EntryId
    length: int
    answer: str = ""
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """No attempt begins, because chunks exist and the chat's choice is `fail`; the caller's token may seal it."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The whole batch is stored."""


@dataclass(frozen=True, slots=True)
class Behind:
    """Nothing was stored: the log's top is `top`, not the batch's predecessor. Send what follows `top`."""

    top: EntryId


@dataclass(frozen=True, slots=True)
class Sealed:
    """The log has ended with `terminal` (an entry's value), be it the caller's or another's."""

    terminal: bytes


@dataclass(frozen=True, slots=True)
class Fenced:
    """The chat is not the caller's (any more); nothing was stored."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The log does not exist: never created, or past its retention. Nothing was stored or resurrected."""


@dataclass(frozen=True, slots=True)
class Unserved:
    """The server refused for a reason of its own (out of memory, read-only replica); nothing was stored."""

    reason: str


APPENDED = Appended()

AppendResult = Appended | Behind | Sealed | Fenced | Gone | Unserved


class Batch(NamedTuple):
    """Chunks `first_seq`, `first_seq + 1`, … of an attempt, then perhaps the terminal entry.

    `before` is how many entries the log has in front of the attempt's first chunk (`Claimed.length`).
    """

    chat_id: str
    token: str
    attempt: int
    before: int
    first_seq: int
    values: Sequence[bytes]
    terminal: bytes | None = None

    @property
    def predecessor(self) -> EntryId:
        return EntryId(self.attempt, self.first_seq - 1)


class ChatLog:
    """Reads and writes logs. Holds no state but the connections it is given and the retention (seconds).

    With `requests`, appends have that connection for themselves.
    """

    def __init__(self, redis: Redis, retention: float, requests: Requests | None = None) -> None:
        self._redis = redis
        self._requests = requests
        self._retention_ms = int(retention * 1000)
        self._claim = redis.register_script(CLAIM)
        self._append_chunks = redis.register_script(APPEND_CHUNKS)
        self._append = redis.register_script(APPEND)
        self._seal = redis.register_script(SEAL)
        self._end_orphan = redis.register_script(END_ORPHAN)
        self._delete = redis.register_script(DELETE)
        self._note_answer = redis.register_script(NOTE_ANSWER)

    async def claim(
        self,
        chat_id: str,
        *,
        token: str,
        worker_id: str,
        reason: str,
        previous: str | None = None,
        failed: bool = False,
    ) -> Claimed | Refused | Sealed | Fenced | Gone:
        """Begin the chat's next attempt with a fresh `token`.

        `previous` makes the claim conditional on the token it replaces; `failed` counts the attempt before as failed;
        `reason` is what a `restart` entry says.
        """
        return await self._begin(chat_id, token, worker_id, previous or "", reason, int(failed), "", "")

    async def reclaim(
        self,
        chat_id: str,
        claim: Claimed,
        *,
        token: str,
        worker_id: str,
        reason: str,
        previous: str | None = None,
        failed: bool = False,
    ) -> bool:
        """Make `claim` once more, with what it was made with, because a failover forgot it; False if that cannot be.

        It can while everything is as it was before the claim, so that the attempt keeps its number and its meaning.
        """
        reply = await self._begin(
            chat_id, token, worker_id, previous or "", reason, int(failed), claim.attempt, str(claim.predecessor)
        )
        return isinstance(reply, Claimed)

    async def _begin(self, chat_id: str, *args: str | int) -> Claimed | Refused | Sealed | Fenced | Gone:
        reply = await self._claim(
            keys=[keys.record(chat_id), keys.log(chat_id), keys.RUNNING, keys.WAITING], args=[chat_id, *args]
        )
        match reply[0]:
            case b"claimed":
                _, attempt, elapsed_ms, failures, request, continues, before, length, answer, lost = reply
                predecessor = EntryId.parse(before)
                return Claimed(
                    attempt, elapsed_ms, failures, request, bool(continues), predecessor, length, answer.decode(), lost
                )
            case b"refused":
                return Refused()
            case _:
                return _refusal(reply)

    async def note_answer(self, chat_id: str, answer: str, *, token: str) -> bool:
        """Note what the upstream calls the answer that `token`'s attempt began; False if the chat is not its any more.

        A later attempt has the rest of it, whatever the chat's choice is (but for `fail`). If the chat has ended, the
        answer is to be stopped.
        """
        return bool(await self._note_answer(keys=[keys.record(chat_id)], args=[token, answer]))

    async def lose_answer(self, chat_id: str, *, token: str) -> bool:
        """Note that nothing more can be had of the answer; False if the chat is not `token`'s any more."""
        return bool(await self._note_answer(keys=[keys.record(chat_id)], args=[token, ""]))

    async def take_abandoned(self, count: int) -> list[str]:
        """Take over up to so many of the upstream's answers that go on though their chats have ended, to stop them."""
        found = await self._redis.zpopmin(keys.ABANDONED, count)
        return [answer.decode() for answer, _ in found]

    async def append(self, batches: Sequence[Batch]) -> list[AppendResult]:
        """Append each batch to its log, in one round trip as long as all goes well; atomic per batch, results in order.

        Raises:
            shared.connect.FAILURES: the connection failed; any of the batches may have been stored. Send them again.
        """
        results: list[AppendResult] = [APPENDED] * len(batches)
        runs, left = [list[int]()], list[int]()
        size = 0
        for index, batch in enumerate(batches):
            if batch.terminal is not None or not batch.values:
                left.append(index)
                continue
            runs[-1].append(index)
            size += len(batch.values)
            if size >= _SCRIPT_VALUES:
                runs.append([])
                size = 0
        runs = [run for run in runs if run]
        commands = [self._chunks_command([batches[index] for index in run]) for run in runs]
        replies = await self._send([*commands, *[self._append_command(batches[index]) for index in left]])
        for index, reply in zip(left, replies[len(runs) :], strict=True):
            results[index] = _append_result(reply)
        again = list[int]()
        for run, reply in zip(runs, replies, strict=False):
            again += run if isinstance(reply, Exception) else [run[number - 1] for number in reply]
        if again:
            replies = await self._send([self._append_command(batches[index]) for index in again])
            for index, reply in zip(again, replies, strict=True):
                results[index] = _append_result(reply)
        return results

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, errors among them as exceptions; the scripts are loaded if the server does not know them."""
        replies = await self._send_once(commands)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            for script in (APPEND_CHUNKS, APPEND):
                await self._redis.script_load(script)
            replies = await self._send_once(commands)
        return replies

    async def _send_once(self, commands: Sequence[Command]) -> list[Any]:
        if self._requests is not None:
            return await self._requests(commands)
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute(raise_on_error=False)

    def _chunks_command(self, batches: Sequence[Batch]) -> Command:
        """What appends chunks alone; see there for what it answers."""
        names, arguments = list[str](), list[Any]()
        for chat_id, token, attempt, before, first_seq, values, _ in batches:
            names += (keys.record(chat_id), keys.log(chat_id))
            arguments += (token, before + first_seq - 1, attempt, first_seq, len(values), *values)
        return ("EVALSHA", self._append_chunks.sha, len(names), *names, *arguments)

    def _append_command(self, batch: Batch) -> Command:
        chat_id, attempt, seq = batch.chat_id, batch.attempt, batch.first_seq
        chat_keys: tuple[str, ...] = (keys.record(chat_id), keys.log(chat_id))
        if batch.terminal is not None:
            chat_keys += (keys.RUNNING, keys.WAITING)
        return (
            *("EVALSHA", self._append.sha, len(chat_keys), *chat_keys),
            *(batch.token, f"{attempt}-{seq - 1}", attempt, seq),
            *(batch.terminal or b"", chat_id, self._retention_ms),
            *batch.values,
        )

    async def seal(
        self, chat_id: str, terminal: bytes, *, only_token: str | None = None, only_status: str | None = None
    ) -> Sealed | Fenced | Gone:
        """End the chat with `terminal` now, whoever is writing; the answer holds the terminal entry that won.

        With `only_token` or `only_status` it does so only if the record still has that token or status, and answers
        `Fenced` otherwise.
        """
        reply = await self._seal(
            keys=[keys.record(chat_id), keys.log(chat_id), keys.RUNNING, keys.WAITING],
            args=[chat_id, terminal, self._retention_ms, only_token or "", only_status or ""],
        )
        return _refusal(reply)

    async def end_orphan(self, chat_id: str, terminal: bytes) -> Sealed | Fenced | Gone:
        """End a chat that nobody else can end, because something of it is missing; `Fenced` if it is in order."""
        reply = await self._end_orphan(
            keys=[keys.record(chat_id), keys.log(chat_id), keys.RUNNING, keys.WAITING, keys.QUEUE],
            args=[chat_id, terminal, self._retention_ms],
        )
        return _refusal(reply)

    async def delete(self, chat_id: str) -> bool:
        """Remove the chat and everything of it, after cancelling it if it has not ended; False if there was nothing."""
        reply = await self._delete(
            keys=[keys.record(chat_id), keys.log(chat_id), keys.RUNNING, keys.WAITING, keys.READ],
            args=[chat_id, events.cancelled()],
        )
        return bool(reply)

    async def find(self, chat_id: str) -> Chat | None:
        """The chat's record; None if there is no such chat."""
        fields = await self._redis.hgetall(keys.record(chat_id))  # type: ignore[misc]  # redis-py types two clients at once
        return Chat.from_record(chat_id, fields) if fields else None

    async def request(self, chat_id: str) -> bytes | None:
        """The chat's stored request, the JSON body for the upstream; None if there is no such chat."""
        request: bytes | None = await self._redis.hget(keys.record(chat_id), "request")  # type: ignore[misc]  # the same
        return request

    async def last_restart(self, chat_id: str) -> EntryId:
        """The log's last `restart`, which supersedes every chunk before it; `START` if there is none.

        It looks at the whole log, page by page.
        """
        found = after = START
        while page := await self.read(chat_id, after, _PAGE):
            found = next((entry.id for entry in reversed(page) if entry.kind is events.Kind.RESTART), found)
            after = page[-1].id
        return found

    async def read(self, chat_id: str, after: EntryId, count: int) -> list[Entry]:
        """The first `count` entries above `after`, in order; empty if there are none (or no log)."""
        if after == TERMINAL:
            return []
        low = EntryId(after.attempt, after.seq + 1) if after.seq < MAX_PART else EntryId(after.attempt + 1, 0)
        return await self.read_from(chat_id, low, count)

    async def read_from(self, chat_id: str, at: EntryId, count: int, *, is_sealed: bool = False) -> list[Entry]:
        """The first `count` entries from `at` on, `at` included; without it in front, the log has lost it.

        Of a log that is known to be sealed they may be fewer, but two at least if it has them: rows of one that is
        compacted hold hundreds of entries each, and `count` of them would nearly always be all that is left.
        """
        rows = await _rows(self._redis, keys.log(chat_id), str(at), min(count, _RUNS) if is_sealed else count)
        entries = unpack_rows(rows, at, count)
        if is_sealed and len(entries) == _RUNS < count:  # it has not been compacted yet
            entries += await self.read(chat_id, entries[-1].id, count - _RUNS)
        return entries

    async def top(self, chat_id: str) -> EntryId | None:
        """The id of the last entry, or None for a log that does not exist."""
        rows = await self._redis.xrevrange(keys.log(chat_id), count=1)
        return EntryId.parse(rows[0][0]) if rows else None

    async def tops(self, chat_ids: Sequence[str]) -> list[EntryId | None]:
        """The same of many logs, in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for chat_id in chat_ids:
                pipe.xrevrange(keys.log(chat_id), count=1)
            found = await pipe.execute()
        return [EntryId.parse(rows[0][0]) if rows else None for rows in found]

    async def look_up(self, chat_id: str, at: EntryId) -> tuple[Chat | None, bool]:
        """The chat's record, and whether `at` names an entry of its log; of one moment."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.record(chat_id))
            _rows(pipe, keys.log(chat_id), str(at), 1)
            fields, rows = await pipe.execute()
        is_entry = any(entry.id == at for entry in unpack_rows(rows, at, 1))
        return (Chat.from_record(chat_id, fields) if fields else None), is_entry

    async def snapshot(self, chat_id: str) -> tuple[Chat, list[Entry]] | None:
        """The chat's record and its whole log, of one moment; None if there is no such chat."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.record(chat_id))
            _rows(pipe, keys.log(chat_id), "-")
            fields, rows = await pipe.execute()
        if not fields:
            return None
        return Chat.from_record(chat_id, fields), unpack_rows(rows, ACCEPTED)

    async def compact(self, chat_id: str) -> bool:
        """Replace a sealed log's rows by fewer that hold the same entries; False if it is not such, or not worth it.

        Raises:
            shared.connect.FAILURES: it may have been done or not; either is well.
        """
        log, aside = keys.log(chat_id), keys.packed(chat_id)
        with suppress(WatchError):
            async with self._redis.pipeline(transaction=True) as pipe:
                await pipe.watch(log)
                rows = await _read_packed(pipe, log)
                expires_at: Any = await pipe.execute_command("PEXPIRETIME", log) if rows else _NO_KEY
                if expires_at == _NO_KEY:
                    return False
                pipe.multi()  # type: ignore[no-untyped-call]  # redis-py
                pipe.unlink(aside)
                for row_id, (field, value) in rows:
                    pipe.xadd(aside, {field: value}, id=row_id)
                if expires_at != _NO_EXPIRY:
                    pipe.pexpireat(aside, expires_at)
                pipe.copy(aside, log, replace=True)  # RENAME would keep what Redis reserves for a stream's next rows
                pipe.unlink(aside)
                await pipe.execute()
                return True
        return False

    async def owners(self, chat_ids: Sequence[str]) -> list[bytes | None]:
        """The claim token of each chat that still runs; None for one that has ended or is gone."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for chat_id in chat_ids:
                pipe.hmget(keys.record(chat_id), ["token", "status"])
            rows = await pipe.execute()
        return [token if status == b"running" else None for token, status in rows]


class Publication(NamedTuple):
    """What one script appended: contiguous entries, the first of which follows `predecessor`."""

    predecessor: EntryId
    entries: list[Entry]

    @classmethod
    def parse(cls, payload: bytes) -> "Publication":
        """Parse what the scripts publish; the input is trusted."""
        header, _, body = payload.partition(b"\n")
        if _SPACE not in header:
            attempt, seq = only = EntryId.parse(header)
            return new_tuple(cls, (new_tuple(EntryId, (attempt, seq - 1)), [new_tuple(Entry, (only, body))]))
        *before, first, lengths = header.split(b" ")
        attempt, seq = EntryId.parse(first)
        predecessor = EntryId.parse(before[0]) if before else EntryId(attempt, seq - 1)
        entries = [Entry(EntryId(attempt, at), value) for at, value in enumerate(cut(body, lengths), seq)]
        if entries[-1].value[:1] in events.TERMINAL_KINDS:
            entries[-1] = Entry(TERMINAL, entries[-1].value)
        return cls(predecessor, entries)


def _append_result(reply: list[bytes] | Exception) -> AppendResult:
    if isinstance(reply, Exception):
        return Unserved(str(reply))
    match reply[0]:
        case b"appended":
            return APPENDED
        case b"behind":
            return Behind(EntryId.parse(reply[1]))
        case _:
            return _refusal(reply)


def _refusal(reply: list[bytes]) -> Sealed | Fenced | Gone:
    match reply[0]:
        case b"sealed":
            return Sealed(reply[1])
        case b"fenced":
            return Fenced()
        case _:
            return Gone()


def _rows(client: Redis, log: str, low: str, count: int | None = None) -> Any:
    """`XRANGE` from `low` on, sent by `client` or queued by it if it is a pipeline.

    The name as bytes keeps redis-py from making a dict of every row, which would cost more than all the rest.
    """
    options = () if count is None else ("COUNT", count)
    return client.execute_command(b"XRANGE", log, low, "+", *options)  # type: ignore[no-untyped-call]  # redis-py


async def _read_packed(pipe: Pipeline, log: str) -> list[Row]:
    """The rows of a sealed log, packed; none if it is not sealed, is packed already, or should stay as it is."""
    rows, low = list[Row](), "-"
    read = size = 0
    while page := await _rows(pipe, log, low, _PAGE):
        if any(field == PACKED for _, (field, _) in page):
            return []
        for row in pack_rows(page):
            rows.append(row)
            size += len(row[1][1])
            if size > _COMPACT_BYTES:
                return []
            await asyncio.sleep(0)  # a run takes about as long as anybody should wait here
        read += len(page)
        last_id = page[-1][0].decode()
        if last_id == str(TERMINAL):
            return rows if read >= _WORTHWHILE else []
        low = f"({last_id}"
    return []
