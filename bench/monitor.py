"""What Redis saw: the server's own MONITOR feed, with its microsecond clock, read chat by chat.

MONITOR shows a script when it begins, and each command that the script makes when it is carried out, so that one clock
tells what API and worker did, whatever the clocks of those two say. It costs the server a little for every command;
that cost is in the figures.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from bench import echo

_PATIENCE = 30.0
_LINE_LIMIT = 16 * 1024 * 1024
_CHAT = re.compile(rb"chat_[a-z2-7]{20}")
_BEGINS = re.compile(rb'\[\d+ lua\] "XADD" "piropiro:\{chat_[a-z2-7]{20}\}:log" "(\d+)-0" ')
_RUNG = re.compile(rb'\] "RPUSH" "%b" "(\d+)"' % echo.BELL.encode())
_ANSWERED = re.compile(rb'\] "PUBLISH" "%b" "(\d+)"' % echo.ANSWER.encode())
_TERMINAL = b':log" "18446744073709551615-18446744073709551615" '


@dataclass(slots=True)
class Seen:
    """The moments of one chat in Redis, in µs of its clock; None if it has not come to that.

    `enqueued`: the script that creates chat and job begins. `taken`: a worker's script takes the job. `looked_up`:
    arq, now running the job, reads it. `started`: the claim writes the log entry that begins the first attempt, the
    first thing that the job does.
    """

    enqueued: int
    taken: int | None = None
    looked_up: int | None = None
    started: int | None = None
    has_ended: bool = False
    attempts: int = 0


class Monitor:
    """Collects what MONITOR says of every chat, and of the yardstick: how many µs each echo took, by its number."""

    def __init__(self) -> None:
        self.chats: dict[str, Seen] = {}
        self.echoes: dict[int, int] = {}
        self._rung: dict[int, int] = {}
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watching(self, port: int) -> AsyncIterator[None]:
        """Watch the server on that port for as long as the context is open."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LINE_LIMIT)
        writer.write(b"MONITOR\r\n")
        await reader.readline()
        task = asyncio.create_task(self._read(reader))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            writer.close()

    async def until_ended(self, chat_ids: Iterable[str]) -> None:
        """Wait until each of these chats has its terminal entry, but not for ever."""
        left = set(chat_ids)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while left := {chat for chat in left if chat not in self.chats or not self.chats[chat].has_ended}:
                    self._news.clear()
                    await self._news.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._take(line)

    def _take(self, line: bytes) -> None:
        found = _CHAT.search(line)
        moment = int(line[1:11]) * 1_000_000 + int(line[12:18])
        if found is None:
            self._take_echo(line, moment)
            return
        # The first that Redis hears of a chat is the script that creates it.
        chat = self.chats.setdefault(found[0].decode(), Seen(moment))
        if chat.started is None:
            if chat.taken is None and b'"EVALSHA"' in line and b'"arq:in-progress:' in line:
                chat.taken = moment
            elif chat.looked_up is None and b'"GET" "arq:job:' in line:
                chat.looked_up = moment
        if _BEGINS.search(line):
            chat.attempts += 1
            chat.started = chat.started or moment
        elif _TERMINAL in line and b'"XADD"' in line:
            chat.has_ended = True
            self._news.set()

    def _take_echo(self, line: bytes, moment: int) -> None:
        if rung := _RUNG.search(line):
            self._rung[int(rung[1])] = moment
        elif answered := _ANSWERED.search(line):
            number = int(answered[1])
            self.echoes[number] = moment - self._rung[number]
