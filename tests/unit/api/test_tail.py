import asyncio
import gc
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import exceptions

from api import tail as tail_module
from api.sse import Format, NativeEncoder, frame
from api.tail import Step, Tails
from shared import events, keys
from shared.cursor import ACCEPTED, START, TERMINAL, EntryId
from shared.events import Entry
from shared.log import Publication

CHAT = "chat_abc"
OPENING = [Entry(ACCEPTED, events.accepted()), Entry(EntryId(1, 0), b'S{"model":"m","token":"t"}')]


class FakeLog:
    """A log in memory with the reading half of `ChatLog`."""

    def __init__(self, entries):
        self.entries = list(entries)
        self.reads = 0
        self.is_down = False

    async def _look(self):
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise exceptions.ConnectionError

    async def read(self, _chat_id, after, count):
        await self._look()
        return [Entry(entry.id, entry.value) for entry in self.entries if entry.id > after][:count]

    async def read_from(self, _chat_id, at, count, *, is_sealed=False):
        await self._look()
        count = min(count, 3) if is_sealed else count
        return [Entry(entry.id, entry.value) for entry in self.entries if entry.id >= at][:count]

    async def top(self, _chat_id):
        await self._look()
        return self.entries[-1].id if self.entries else None

    async def tops(self, chat_ids):
        return [await self.top(chat_id) for chat_id in chat_ids]


class FakeQueue:
    """Nobody waits in it."""

    async def keep_readers(self, chat_ids):
        assert not chat_ids


class FakeSubscriber:
    """Holds the listeners; the test plays the server."""

    def __init__(self):
        self.listeners = {}

    def subscribe(self, channel, listener):
        self.listeners[channel] = listener

    def unsubscribe(self, channel):
        del self.listeners[channel]


class Replica:
    """Tails over fakes, and a writer that publishes or fails to."""

    def __init__(self, entries=OPENING):
        self.log, self.subscriber = FakeLog(entries), FakeSubscriber()
        self.tails = Tails(self.log, FakeQueue(), self.subscriber)

    def follow(self, after=START, format_=Format.JSON):
        return self.tails.follow(CHAT, after, NativeEncoder(CHAT, format_))

    @property
    def listener(self):
        return self.subscriber.listeners.get(keys.log(CHAT))

    def write(self, texts, *, is_published=True, terminal=None):
        predecessor = self.log.entries[-1].id
        new = [Entry(EntryId(1, predecessor.seq + n), b"t" + text.encode()) for n, text in enumerate(texts, start=1)]
        if terminal:
            new.append(Entry(TERMINAL, terminal))
        self.log.entries += new
        publication = payload(predecessor, new)
        if is_published and self.listener:
            self.listener.on_message(publication)
        return publication

    def resubscribe(self, late):
        """Acknowledge, and only then publish what is late."""
        self.listener.on_subscribed()
        while late:
            self.listener.on_message(late.pop(0))

    def frames(self, after=START, format_=Format.JSON):
        return b"".join(frame(CHAT, entry, format_) for entry in self.log.entries if entry.id > after)


def payload(predecessor, entries):
    lengths = ",".join(str(len(entry.value)) for entry in entries)
    header = f"{predecessor} {entries[0].id} {lengths}\n"
    return header.encode() + b"".join(entry.value for entry in entries)


@asynccontextmanager
async def reading(replica, after=START):
    """Collect what a follower gives in the background."""
    reader = Reader(replica, after, Format.JSON)
    yield reader.received, reader.task
    await reader.leave()


async def refreshed(replica):
    """Wait until the tail has finished looking into the stream."""
    async with asyncio.timeout(10):
        while replica.listener._refreshing is not None:
            await asyncio.sleep(0.001)


async def settle():
    for _ in range(30):
        await asyncio.sleep(0)


async def test_a_publication_is_parsed_as_it_was_made():
    entries = [Entry(EntryId(1, 1), b"ta\n,"), Entry(EntryId(1, 2), b"t"), Entry(TERMINAL, b"X{}")]
    assert Publication.parse(payload(EntryId(1, 0), entries)) == Publication(EntryId(1, 0), entries)


async def test_nothing_is_shown_before_the_subscription_is_acknowledged():
    replica = Replica()
    async with reading(replica) as (received, _):
        await settle()
        assert received == b""
        replica.listener.on_subscribed()
        await settle()
        assert received == replica.frames()


async def test_live_entries_come_from_publications_without_reading():
    replica = Replica()
    async with reading(replica) as (received, _):
        replica.listener.on_subscribed()
        await settle()
        reads = replica.log.reads
        for n in range(20):
            replica.write([f"w{n}", "x"])
            await settle()
        assert received == replica.frames()
        assert replica.log.reads == reads


async def test_a_lost_publication_is_noticed_at_the_next_one():
    replica = Replica()
    async with reading(replica) as (received, _):
        replica.listener.on_subscribed()
        await settle()
        replica.write(["lost"], is_published=False)
        replica.write(["heard"])
        await settle()
        assert received == replica.frames()


async def test_a_terminal_entry_whose_publication_is_lost_is_found_after_silence(monkeypatch):
    monkeypatch.setattr(tail_module, "_SILENCE", 0.02)
    monkeypatch.setattr(tail_module, "_TICK", 0.01)
    replica = Replica()
    watching = asyncio.create_task(replica.tails.run())
    async with reading(replica) as (received, task):
        replica.listener.on_subscribed()
        await settle()
        replica.write(["a"], terminal=events.cancelled(), is_published=False)
        async with asyncio.timeout(10):
            await task
        assert received == replica.frames()
    watching.cancel()


async def test_two_followers_share_one_subscription_and_the_last_one_ends_it():
    replica = Replica()
    first, second = replica.follow(), replica.follow()
    assert len(replica.subscriber.listeners) == 1
    first.close()
    assert replica.listener is not None
    second.close()
    assert replica.listener is None


async def test_a_late_reader_replays_what_the_ring_has_forgotten(monkeypatch):
    monkeypatch.setattr(tail_module, "_RING_ENTRIES", 4)
    replica = Replica()
    async with reading(replica) as (received, _):
        replica.listener.on_subscribed()
        await settle()
        for n in range(100):
            replica.write([f"w{n}"])
            await settle()
        assert len(replica.listener._entries) <= 8
        async with reading(replica) as (late, _):
            await settle()
            assert late == received == replica.frames()


async def test_a_reader_that_falls_behind_the_ring_catches_up_without_loss(monkeypatch):
    monkeypatch.setattr(tail_module, "_RING_ENTRIES", 4)
    replica = Replica()
    slow = replica.follow()
    replica.listener.on_subscribed()
    await settle()
    first = await slow.next(60)
    for n in range(1000):
        replica.write([f"w{n}"])
    received = bytearray(first)
    while received != replica.frames():
        received += await slow.next(60)
    slow.close()


@pytest.mark.parametrize("heals", [True, False])
async def test_a_reader_behind_the_ring_goes_on_only_where_its_position_is_still_in_the_stream(monkeypatch, heals):
    monkeypatch.setattr(tail_module, "_RING_ENTRIES", 4)
    monkeypatch.setattr(tail_module, "_RETRY", 0.001)
    monkeypatch.setattr(tail_module, "HEAL", 60 if heals else 0.05)
    replica = Replica()
    slow = replica.follow()
    replica.listener.on_subscribed()
    await settle()
    received = bytearray(await slow.next(60))
    for n in range(100):
        replica.write([f"w{n}"])
    received += await slow.next(60)
    before = list(replica.log.entries)
    assert received != replica.frames()
    replica.log.entries = [before[0], *(Entry(EntryId(7, n), b"S{}" if n == 0 else b"tother") for n in range(200))]
    step = asyncio.create_task(slow.next(60))
    await settle()
    assert not step.done()
    if heals:
        replica.log.entries = before
        received += await step
        while received != replica.frames():
            received += await slow.next(60)
    else:
        assert await step is None
    slow.close()


async def test_ring_bytes_are_bounded(monkeypatch):
    monkeypatch.setattr(tail_module, "_RING_BYTES", 1000)
    replica = Replica()
    follower = replica.follow()
    replica.listener.on_subscribed()
    await settle()
    for _ in range(100):
        replica.write(["x" * 300])
    assert replica.listener._bytes <= 2000
    follower.close()


async def test_a_ring_that_few_followers_share_is_small():
    few, many = Replica(), Replica()
    followers = [few.follow(), *(many.follow() for _ in range(20))]
    for replica in (few, many):
        replica.listener.on_subscribed()
        await settle()
        for n in range(600):
            replica.write([f"w{n}"])
    assert len(few.listener._entries) <= 2 * tail_module._SHARE_ENTRIES + 1
    assert len(many.listener._entries) == 600
    for follower in followers:
        follower.close()


async def test_a_long_publication_reaches_waiting_followers_without_a_read():
    replica = Replica()
    async with reading(replica) as (received, _):
        replica.listener.on_subscribed()
        await settle()
        reads = replica.log.reads
        for _ in range(5):
            replica.write(["x"] * 400)
            await settle()
        assert received == replica.frames()
        assert replica.log.reads == reads


async def test_a_late_reader_keeps_nothing_of_the_pages_it_reads():
    replica = Replica()
    replica.write(["s"] * 1000 + ["x" * 100_000] * 40)
    follower = replica.follow()
    replica.listener.on_subscribed()
    await settle()
    received = b""
    gc.collect()
    before = living_entries()
    while len(received) < len(replica.frames()):
        frames = await follower.next(60)
        assert len(frames) < tail_module._WRITE_BYTES + 100_200
        assert living_entries() <= before  # an earlier test may have left some for the collector
        received += frames
    assert received == replica.frames()
    follower.close()


def living_entries():
    return sum(isinstance(thing, Entry) for thing in gc.get_objects())


async def test_one_step_is_bounded_however_much_there_is_to_read():
    replica = Replica()
    replica.write(["x" * 10_000] * 100)
    follower = replica.follow()
    replica.listener.on_subscribed()
    await settle()
    assert len(await follower.next(60)) < 100_000
    follower.close()


async def test_an_idle_follower_gives_empty_bytes_after_its_patience():
    replica = Replica()
    follower = replica.follow(EntryId(1, 0))
    replica.listener.on_subscribed()
    assert await follower.next(0.01) == b""
    follower.close()


async def test_draining_ends_streams_without_a_terminal_event_and_later_ones_at_once():
    replica = Replica()
    async with reading(replica) as (received, task):
        replica.listener.on_subscribed()
        await settle()
        replica.tails.drain()
        await task
        assert received == replica.frames()
        late = replica.follow()
        assert await late.next(60) is None
        late.close()


async def test_a_log_that_lost_what_was_delivered_ends_its_streams_unless_it_heals(monkeypatch):
    monkeypatch.setattr(tail_module, "_RETRY", 0.001)
    for heals in (True, False):
        monkeypatch.setattr(tail_module, "HEAL", 60 if heals else 0.05)
        replica = Replica()
        async with reading(replica) as (received, task):
            replica.listener.on_subscribed()
            await settle()
            replica.write(["a", "b"])
            await settle()
            before = list(replica.log.entries)
            replica.log.entries.pop()
            replica.listener.refresh()
            await settle()
            if heals:
                replica.log.entries = before
                await refreshed(replica)
                replica.write(["c"])
                await settle()
                assert not task.done()
                assert received == replica.frames()
            else:
                async with asyncio.timeout(10):
                    await task


async def test_a_publication_that_skips_lost_entries_is_not_taken_for_the_next(monkeypatch):
    monkeypatch.setattr(tail_module, "_RETRY", 0.001)
    monkeypatch.setattr(tail_module, "HEAL", 0.02)
    replica = Replica()
    async with reading(replica) as (received, task):
        replica.listener.on_subscribed()
        await settle()
        replica.write(["a", "b"])
        await settle()
        shown = bytes(received)
        del replica.log.entries[-2:]
        predecessor, second = replica.log.entries[-1].id, Entry(EntryId(2, 0), b'S{"model":"m","token":"u"}')
        replica.log.entries.append(second)
        replica.listener.on_message(payload(predecessor, [second]))
        async with asyncio.timeout(10):
            await task
        assert received == shown


async def test_publications_during_a_read_are_no_loss(monkeypatch):
    replica = Replica()
    async with reading(replica) as (received, task):
        replica.listener.on_subscribed()
        await settle()
        for n in range(50):
            replica.listener.refresh()
            await asyncio.sleep(0)
            replica.write([f"w{n}"])
        await settle()
        assert received == replica.frames()
        assert not task.done()


async def test_a_publication_that_the_stream_never_gets_is_waited_for_in_vain_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(tail_module, "_RETRY", 0.005)
    monkeypatch.setattr(tail_module, "HEAL", 0.05)
    replica = Replica()
    async with reading(replica) as (_, task):
        replica.listener.on_subscribed()
        await settle()
        replica.listener.on_message(payload(EntryId(1, 7), [Entry(EntryId(1, 8), b"tghost")]))
        await refreshed(replica)
        assert replica.log.reads < 50
        assert not task.done()


async def test_a_publication_during_the_first_look_does_not_delay_the_second(monkeypatch):
    monkeypatch.setattr(tail_module, "_RETRY", 60)
    replica = Replica(OPENING[:1])
    top = replica.log.top

    async def claimed_meanwhile(_chat_id):
        replica.log.top = top
        replica.log.entries.append(OPENING[1])
        replica.listener.on_message(payload(ACCEPTED, [OPENING[1]]))
        return ACCEPTED

    replica.log.top = claimed_meanwhile
    async with reading(replica, ACCEPTED) as (received, _):
        replica.listener.on_subscribed()
        async with asyncio.timeout(10):
            while len(replica.log.entries) == 1 or received != replica.frames():
                await asyncio.sleep(0.001)


async def test_a_tail_that_cannot_read_tries_again(monkeypatch):
    monkeypatch.setattr(tail_module, "_RETRY", 0)
    replica = Replica()
    replica.log.is_down = True
    async with reading(replica) as (received, _):
        replica.listener.on_subscribed()
        await settle()
        replica.log.is_down = False
        await settle()
        assert received == replica.frames()


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write unheard", "write heard late", "resubscribe", "join", "leave", "settle"]),
        st.integers(0, 9),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(actions=ACTIONS, format_=st.sampled_from(Format), ring=st.integers(1, 8))
def test_whatever_is_lost_late_or_doubled_every_view_is_complete(actions, format_, ring):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_module, "_RING_ENTRIES", ring)
        patch.setattr(tail_module, "_PAGE", 3)
        asyncio.run(play(actions, format_))


async def play(actions, format_):  # one case per action
    """Let a log be written, heard of and read as `actions` say; then let it end, and compare every view."""
    replica, late, readers = Replica(), [], []
    for action, n in actions:
        match action:
            case "write":
                replica.write([f"{n}"] * (n % 3 + 1))
            case "write unheard":
                replica.write([f"{n}"], is_published=False)
            case "write heard late":
                late.append(replica.write([f"{n}"], is_published=False))
            case "resubscribe" if replica.listener:
                replica.resubscribe(late)
            case "join":
                after = replica.log.entries[n % len(replica.log.entries)].id
                readers.append(Reader(replica, after, format_))
            case "leave" if readers:
                await readers.pop(n % len(readers)).leave()
            case "settle":
                await settle()
    readers.append(Reader(replica, START, format_))
    replica.listener.on_subscribed()
    replica.write(["end"], terminal=events.done("stop", None))
    for reader in readers:
        async with asyncio.timeout(10):
            await reader.task
        assert reader.received == replica.frames(reader.after, format_)
        await reader.leave()


class Reader:
    """Reads in the background from above `after`."""

    def __init__(self, replica, after, format_):
        self.after, self.received = after, bytearray()
        self.follower = replica.follow(after, format_)
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        while (step := await self.follower.next(60)) is not None:
            self.received.extend(step if isinstance(step, bytes) else b"")

    async def leave(self):
        self.follower.close()
        await self.task


class Counting:
    """An encoder with a state: it notes each entry and frames its number, until it has had enough."""

    is_shared = False
    shows_places = False

    def __init__(self, limit=10**9):
        self.entries, self.limit = [], limit

    @property
    def is_over(self):
        return len(self.entries) >= self.limit

    def frame(self, entry):
        if self.is_over:
            return b""
        self.entries.append(entry)
        return b"%d " % len(self.entries)

    def interrupted(self):
        return b"interrupted"


async def drained(follower):
    received = b""
    while (step := await follower.next(60)) is not None:
        received += step
    return received


async def test_an_encoder_with_a_state_gets_every_entry_once_and_in_order(monkeypatch):
    monkeypatch.setattr(tail_module, "_RING_ENTRIES", 4)
    replica = Replica()
    encoders = [Counting(), Counting()]
    followers = [replica.tails.follow(CHAT, START, encoder) for encoder in encoders]
    reading = [asyncio.create_task(drained(follower)) for follower in followers]
    replica.listener.on_subscribed()
    for n in range(50):
        replica.write([f"w{n}", "x"], is_published=n % 7 != 0)
        if n % 3 == 0:
            await settle()
    replica.write([], terminal=events.cancelled())
    received = await asyncio.gather(*reading)
    assert [encoder.entries for encoder in encoders] == [replica.log.entries] * 2
    assert received[0] == received[1] == b"".join(b"%d " % n for n in range(1, len(replica.log.entries) + 1))
    assert [follower.last_words() for follower in followers] == [b"", b""]
    for follower in followers:
        follower.close()


async def test_an_encoder_may_end_its_stream_before_the_log_ends():
    replica = Replica()
    follower = replica.tails.follow(CHAT, START, Counting(limit=3))
    replica.listener.on_subscribed()
    replica.write(["a", "b", "c"])
    assert await drained(follower) == b"1 2 3 "
    assert follower.last_words() == b""
    follower.close()


async def test_a_follower_whose_encoder_has_ended_it_at_the_edge_has_more_to_say():
    replica = Replica()
    followers = [replica.tails.follow(CHAT, START, Counting(limit)) for limit in (3, 4)]
    replica.listener.on_subscribed()
    replica.write(["a"])
    for follower in followers:
        while not await follower.next(60):
            pass
    assert len(replica.log.entries) == 3
    assert [follower.is_at_edge for follower in followers] == [False, True]
    assert [follower.take() for follower in followers] == [Step.OVER, Step.IDLE]
    for follower in followers:
        follower.close()


async def test_a_stream_that_ends_before_its_log_asks_its_encoder_for_last_words():
    replica = Replica()
    follower = replica.tails.follow(CHAT, START, Counting())
    replica.listener.on_subscribed()
    await settle()
    replica.tails.drain()
    await drained(follower)
    assert follower.last_words() == b"interrupted"


async def test_followers_with_equal_encoders_share_what_one_of_them_made(monkeypatch):
    made, received = [], []
    whole = NativeEncoder.frame
    monkeypatch.setattr(NativeEncoder, "frame", lambda self, entry: made.append(entry) or whole(self, entry))
    replica = Replica()
    followers = [replica.follow(), replica.follow()]
    replica.listener.on_subscribed()
    for follower in followers:
        await follower.next(60)
        follower.on_more = lambda follower=follower: received.append(follower.take())
    made.clear()
    replica.write(["a"])
    await settle()
    assert len(made) == 1
    assert received == [frame(CHAT, replica.log.entries[-1], Format.JSON)] * 2
    for follower in followers:
        follower.on_more = lambda: None
        follower.close()
