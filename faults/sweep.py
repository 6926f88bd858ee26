"""The look into Redis and the simulator when all is over: what late writers did, and what nobody tidied up."""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from faults import http
from faults.checker import Column, Finding, check_orphan
from faults.resp import Refused
from faults.stack import Stack, log_entries, log_key

_PAGE = 100
_CHAT_KEY = re.compile(r"piropiro:\{(?P<chat>[^}]+)\}:(?P<part>chat|log)")
_EXPECTED = re.compile(r"piropiro:(idempotency:[0-9a-f]{64}|workers|queue|queue:health-check|doorbell|search)$")
_ARQS = re.compile(r"arq:(job|in-progress|retry):(?P<chat>[^:]+):\d+$")
"""arq's own keys of chats that have ended; they expire, or its next cleaning takes them."""

_EMPTY = ("piropiro:waiting", "piropiro:running", "piropiro:read")
_MOMENT = 0.5

Entries = Sequence[tuple[str, bytes]]


def digest(entries: Entries) -> bytes:
    """Stands for a log."""
    whole = hashlib.sha256()
    for id_, value in entries:
        whole.update(f"{id_} {len(value)} ".encode() + value)
    return whole.digest()


async def read_logs(stack: Stack, chats: Sequence[str], take: Callable[[str, Entries], None]) -> None:
    """Give each chat's log to `take`, never many at once."""
    for start in range(0, len(chats), _PAGE):
        page = chats[start : start + _PAGE]
        replies = await stack.redis.insist(*(("XRANGE", log_key(chat), "-", "+") for chat in page))
        for chat, rows in zip(page, replies, strict=True):
            take(chat, log_entries(rows))


async def chats_in(stack: Stack) -> list[str]:
    """The ids of all chats that Redis knows."""
    keys = await stack.redis.scan("piropiro:{*}:log")
    return [match["chat"] for key in keys if (match := _CHAT_KEY.fullmatch(key))]


async def sweep(
    stack: Stack, checked: Mapping[str, bytes], keyed: Mapping[str, str], patience: float
) -> tuple[list[Finding], int]:
    """What is wrong beside the chats that were checked, and how many chats nobody read.

    `checked`: the digest of each checked chat's log. `keyed`: the simulator's key of each chat that had an idempotency
    key, and its id. Whatever needs a moment more to end gets up to `patience` seconds.
    """
    chats = await chats_in(stack)
    orphans = [chat for chat in chats if chat not in checked]
    findings = list[Finding]()

    def compare(chat: str, entries: Entries) -> None:
        if chat not in checked:
            findings.extend(check_orphan(chat, entries))
        elif digest(entries) != checked[chat]:
            findings.append(Finding(Column.LATE, chat, "its log changed after its end"))

    await _settle(stack, orphans, patience)
    await read_logs(stack, chats, compare)
    missing = checked.keys() - set(chats)
    findings += [Finding(Column.LOST, chat, "its log is gone") for chat in sorted(missing)]
    findings += await _twice(stack, chats, keyed)
    findings += await _left(stack, patience)
    return findings, len(orphans)


async def _settle(stack: Stack, chats: Sequence[str], patience: float) -> None:
    """Wait until each of `chats` has ended, but not for ever."""
    try:
        async with asyncio.timeout(patience):
            while chats:
                statuses = await stack.redis.insist(
                    *(("HGET", f"piropiro:{{{chat}}}:chat", "status") for chat in chats)
                )
                chats = [c for c, status in zip(chats, statuses, strict=True) if status in (b"queued", b"running")]
                await asyncio.sleep(_MOMENT)
    except TimeoutError:
        pass


async def _twice(stack: Stack, chats: Sequence[str], keyed: Mapping[str, str]) -> list[Finding]:
    """Chats that were created a second time in spite of their idempotency key."""
    count = Counter[str]()
    for start in range(0, len(chats), _PAGE):
        page = chats[start : start + _PAGE]
        for request in await stack.redis.insist(*(("HGET", f"piropiro:{{{c}}}:chat", "request") for c in page)):
            if request is not None:
                count[json.loads(request)["simulator"]["key"]] += 1
    return [Finding(Column.TWICE, label, f"{count[label]} chats of one key") for label in keyed if count[label] > 1]


async def _left(stack: Stack, patience: float) -> list[Finding]:
    """Keys and open requests that are still there when every chat has ended, a moment allowed."""
    left = list[str]()
    for _ in range(max(1, int(patience / _MOMENT))):
        left = await _leftovers(stack)
        if not left:
            break
        await asyncio.sleep(_MOMENT)
    return [Finding(Column.LEFT, "all chats", what) for what in left]


async def _leftovers(stack: Stack) -> list[str]:
    sizes = await stack.redis.insist(
        ("ZCARD", _EMPTY[0]), ("HLEN", _EMPTY[1]), ("ZCARD", _EMPTY[2]), ("ZCARD", "piropiro:workers")
    )
    left = [f"{size} in {key}" for key, size in zip(_EMPTY, sizes, strict=False) if size]
    if isinstance(sizes[-1], Refused) or sizes[-1] != len(stack.workers):
        left.append(f"{sizes[-1]} workers in piropiro:workers, of {len(stack.workers)}")
    keys = await stack.redis.scan("*")
    known = (_CHAT_KEY, _EXPECTED, _ARQS)
    left += [key for key in keys if key not in _EMPTY and not any(form.fullmatch(key) for form in known)]
    try:
        running = [record for record in await stack.upstream_requests() if record["outcome"] == "running"]
    except http.FAILURES as error:
        return [*left, f"the simulator does not answer: {error!r}"]
    return left + ([f"{len(running)} requests open at the upstream"] if running else [])
