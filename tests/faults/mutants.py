"""Piropiro with a bug in it: `python tests/faults/mutants.py <bug> <arguments of the piropiro command>`.

Each bug replaces one thing in the product before its command runs, as an editing mistake might; the campaign must find
every one of them.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import api.errors
import api.tail
import shared.log
import shared.sweep
import worker.generate
import worker.lease
from cli.main import main
from shared.cursor import TERMINAL, EntryId
from shared.queue import JobQueue


def unfenced():
    """Whoever writes is believed to be the owner, and what comes at the wrong place goes to the end."""
    script = shared.log.APPEND
    script = script.replace("if redis.call('HGET', record, 'token') ~= token then return {'fenced'} end", "")
    script = script.replace(
        "if top ~= predecessor then return {'behind', top} end",
        "if top ~= predecessor then attempt, seq = string.match(top, '(%d+)-(%d+)'); seq = seq + 1 end",
    )
    assert script.count("string.match(top") == 1
    shared.log.APPEND = script
    worker.lease.Lease.audit = lambda _: asyncio.sleep(0)


def deaf_tail():
    """The tail takes every publication for the next one, whatever was published before it."""

    def on_message(self, payload):
        self.last_heard = asyncio.get_running_loop().time()
        top = self.top or EntryId(0, 0)
        self._extend([entry for entry in shared.log.Publication.parse(payload).entries if entry.id > top])

    api.tail.Tail.on_message = on_message


def inclusive_cursor():
    """A resume begins with the event that the client has already."""
    whole = api.tail.Tails.follow

    def follow(self, chat_id, after, format_, **options):
        if 0 < after.seq < TERMINAL.seq:
            after = EntryId(after.attempt, after.seq - 1)
        return whole(self, chat_id, after, format_, **options)

    api.tail.Tails.follow = follow


def truncated_is_done():
    """An answer that ends without a finish_reason counts as complete."""

    class Complete(worker.generate.Answer):
        @property
        def finish_reason(self):
            return super().finish_reason or "stop"

    worker.generate.Answer = Complete


def no_takeover():
    """Nobody looks after the chats of dead workers."""
    worker.lease.Watch.look = lambda *_: []


def forgotten_key():
    """The idempotency key is not kept."""
    whole = JobQueue.submit

    async def submit(self, chat, max_queue):
        object.__setattr__(chat, "idempotency_key", None)
        return await whole(self, chat, max_queue)

    JobQueue.submit = submit


def half_continued():
    """A chat that is to continue begins its answer again, without a word."""

    async def continuation(_self, _chat_id, request):
        return request

    worker.generate.Generator._continuation = continuation


def never_left():
    """Nobody notices that a chat's last reader has left."""
    shared.sweep.Sweep.end_left = lambda _: asyncio.sleep(0)


def left_at_once():
    """That a chat is being read is said when a reader comes, and not again."""
    whole, said = JobQueue.keep_readers, set()

    async def keep_readers(self, chat_ids):
        await whole(self, [chat_id for chat_id in chat_ids if chat_id not in said])
        said.update(chat_ids)

    JobQueue.keep_readers = keep_readers


def patient():
    """A request waits for Redis longer than the contract says."""
    api.errors.REDIS_PATIENCE = 8.0


if __name__ == "__main__":
    bug = sys.argv.pop(1)
    if sys.argv[1] != "simulator":
        globals()[bug.replace("-", "_")]()
    main()
