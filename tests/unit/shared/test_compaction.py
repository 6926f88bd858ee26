"""A sealed log in fewer rows: the same to every reader, and only if it is still what was read."""

import asyncio

import pytest

import shared.log
from shared import events, keys
from shared.chat import new_chat_id
from shared.cursor import ACCEPTED, MAX_PART, START, TERMINAL, EntryId
from shared.log import Batch, Gone, Sealed
from shared.packing import PACKED
from shared.queue import NewChat

DONE = events.done("stop", None)


async def create(queue):
    chat = NewChat(new_chat_id(), "m", b"{}", "f")
    await queue.submit(chat, 10)
    return chat.id


async def attempt(log, chat_id, token, number, values, terminal=None):
    claim = await log.claim(chat_id, token=token, worker_id="w", reason="-")
    await log.append([Batch(chat_id, token, number, claim.length, 1, values, terminal)])


@pytest.fixture
async def chat_id(queue, log):
    """A sealed chat of two attempts, with an entry too large for a run."""
    chat_id = await create(queue)
    await attempt(log, chat_id, "A", 1, [b"t%d" % n for n in range(40)])
    await attempt(log, chat_id, "B", 2, [*(b"t%d" % n for n in range(700)), b"t" * 20_000, b"t", b"t"], DONE)
    return chat_id


async def all_of(log, chat_id):
    return await log.read(chat_id, START, 10_000)


async def rows_of(redis, chat_id):
    return await redis.xlen(keys.log(chat_id))


@pytest.fixture
def when_read(monkeypatch):
    """Have something happen between what `compact` reads and what it does."""
    whole = shared.log._read_packed

    def when_read(action):
        async def read(pipe, key):
            rows = await whole(pipe, key)
            await action()
            return rows

        monkeypatch.setattr(shared.log, "_read_packed", read)

    return when_read


async def test_a_compacted_log_takes_few_rows_and_reads_as_before(log, redis, chat_id):
    entries, (chat, _) = await all_of(log, chat_id), await log.snapshot(chat_id)
    assert await log.compact(chat_id)
    assert await rows_of(redis, chat_id) < 10
    assert await all_of(log, chat_id) == entries
    assert await log.snapshot(chat_id) == (chat, entries)
    assert await log.top(chat_id) == TERMINAL
    assert await redis.exists(keys.packed(chat_id)) == 0


async def test_every_cursor_of_a_compacted_log_has_the_same_sequel(log, chat_id):
    entries = await all_of(log, chat_id)
    assert await log.compact(chat_id)
    for place, entry in enumerate(entries):
        count = place % 50 + 1
        assert await log.read(chat_id, entry.id, count) == entries[place + 1 :][:count]
        assert await log.read_from(chat_id, entry.id, count) == entries[place:][:count]
        assert (await log.look_up(chat_id, entry.id))[1]


@pytest.mark.parametrize("is_compacted", [False, True])
async def test_a_page_of_a_sealed_log_goes_on_from_any_entry(log, chat_id, is_compacted):
    entries = await all_of(log, chat_id)
    if is_compacted:
        assert await log.compact(chat_id)
    for place, entry in enumerate(entries):
        page = await log.read_from(chat_id, entry.id, place % 50 + 2, is_sealed=True)
        assert page == entries[place:][: len(page)]
        assert min(2, len(entries) - place) <= len(page) <= place % 50 + 2


async def test_a_page_of_a_compacted_log_takes_little_of_it_from_the_server(log, queue):
    chat_id = await create(queue)
    await attempt(log, chat_id, "A", 1, [b"t%d" % n for n in range(4000)], DONE)
    assert len(await log.read_from(chat_id, EntryId(1, 1), 3000, is_sealed=True)) == 3000
    assert await log.compact(chat_id)
    assert 1000 < len(await log.read_from(chat_id, EntryId(1, 1), 3000, is_sealed=True)) < 2000


async def test_an_id_that_never_was_names_no_entry_of_a_compacted_log_either(log, chat_id):
    never = [START, EntryId(0, 2), EntryId(1, 41), EntryId(2, 704), EntryId(3, 0), EntryId(3, 1)]
    never += [EntryId(1, MAX_PART), EntryId(MAX_PART, 5)]
    plain = [await log.read(chat_id, each, 3) for each in never]
    assert await log.compact(chat_id)
    for each, entries in zip(never, plain, strict=True):
        assert not (await log.look_up(chat_id, each))[1]
        assert await log.read(chat_id, each, 3) == entries
        assert await log.read_from(chat_id, each, 3) == entries
    assert await log.look_up("nobody", ACCEPTED) == (None, False)


async def test_a_compacted_log_is_as_sealed_as_before(log, redis, chat_id):
    entries = await all_of(log, chat_id)
    assert await log.compact(chat_id)
    assert await log.append([Batch(chat_id, "B", 2, 3, 704, [b"tx"])]) == [Sealed(DONE)]
    assert await log.claim(chat_id, token="C", worker_id="w", reason="-") == Sealed(DONE)
    assert await log.seal(chat_id, events.cancelled()) == Sealed(DONE)
    assert await log.end_orphan(chat_id, events.cancelled()) == Sealed(DONE)
    assert await all_of(log, chat_id) == entries


async def test_a_log_is_compacted_once(log, redis, chat_id):
    assert await log.compact(chat_id)
    before = await redis.dump(keys.log(chat_id))
    assert not await log.compact(chat_id)
    assert await redis.dump(keys.log(chat_id)) == before


async def test_a_log_that_has_not_ended_is_not_compacted(log, queue, redis):
    chat_id = await create(queue)
    await attempt(log, chat_id, "A", 1, [b"t"] * 600)
    assert not await log.compact(chat_id)
    assert await rows_of(redis, chat_id) == 602


async def test_neither_a_tiny_log_nor_a_huge_one_is_compacted(log, queue, redis):
    for values in ([b"t"] * 20, [bytes([n]) * 65_536 for n in range(20)]):
        chat_id = await create(queue)
        await attempt(log, chat_id, "A", 1, values, DONE)
        assert not await log.compact(chat_id)
        assert await rows_of(redis, chat_id) == len(values) + 3


@pytest.mark.parametrize("chunks", [508, 509, 510, 1021, 1022])
async def test_a_log_of_any_length_is_compacted(log, queue, redis, chunks):
    """The second and the fourth fill what is read at once."""
    chat_id = await create(queue)
    await attempt(log, chat_id, "A", 1, [b"t%d" % n for n in range(chunks)], DONE)
    entries = await all_of(log, chat_id)
    assert await log.compact(chat_id)
    assert await all_of(log, chat_id) == entries
    assert len(entries) == chunks + 3


async def test_a_compacted_log_lives_exactly_as_long(log, redis, chat_id):
    before = await redis.pexpiretime(keys.log(chat_id))
    assert await log.compact(chat_id)
    assert await redis.pexpiretime(keys.log(chat_id)) == before > 0


async def test_a_log_that_somebody_chose_to_keep_is_kept(log, redis, chat_id):
    await redis.persist(keys.log(chat_id))
    assert await log.compact(chat_id)
    assert await redis.pttl(keys.log(chat_id)) == -1


async def test_what_is_gone_stays_gone(log, redis):
    assert not await log.compact("nobody")
    assert await redis.keys() == []


async def test_a_log_that_is_deleted_while_it_is_compacted_stays_gone(log, redis, chat_id, when_read):
    when_read(lambda: redis.delete(keys.log(chat_id), keys.record(chat_id)))
    assert not await log.compact(chat_id)
    assert await log.append([Batch(chat_id, "B", 2, 3, 704, [b"tx"])]) == [Gone()]
    assert await redis.exists(keys.log(chat_id), keys.packed(chat_id)) == 0


async def test_a_log_that_expires_while_it_is_compacted_stays_gone(log, redis, chat_id, when_read):
    await redis.pexpire(keys.log(chat_id), 300)
    when_read(lambda: asyncio.sleep(0.4))
    assert not await log.compact(chat_id)
    assert await redis.exists(keys.log(chat_id), keys.packed(chat_id)) == 0


async def test_a_log_that_another_replaced_meanwhile_stays_as_it_is(log, redis, chat_id, when_read):
    """As a failover would: as many entries, ended alike, that say something else."""
    other = [(id_, {b"e": fields[b"e"].upper()}) for id_, fields in await redis.xrange(keys.log(chat_id))]

    async def replace():
        await redis.delete(keys.log(chat_id))
        for entry_id, fields in other:
            await redis.xadd(keys.log(chat_id), fields, id=entry_id)

    when_read(replace)
    assert not await log.compact(chat_id)
    assert await redis.xrange(keys.log(chat_id)) == other


async def test_of_two_that_compact_at_once_one_does(log, redis, chat_id):
    entries = await all_of(log, chat_id)
    assert sorted(await asyncio.gather(log.compact(chat_id), log.compact(chat_id))) == [False, True]
    assert await all_of(log, chat_id) == entries


@pytest.mark.parametrize("redis", ["real"], indirect=True)  # the fake one has no connection to lose
async def test_a_connection_that_is_lost_meanwhile_changes_nothing(log, redis, chat_id, when_read):
    """The next one may lead to another server, which does not know what was watched."""
    before = await redis.dump(keys.log(chat_id))

    async def cut():
        own = await redis.client_id()
        others = [int(client["id"]) for client in await redis.client_list() if int(client["id"]) != own]
        for each in others:
            await redis.client_kill_filter(_id=each)

    when_read(cut)
    assert not await log.compact(chat_id)
    assert await redis.dump(keys.log(chat_id)) == before


async def test_what_lies_where_the_rows_are_made_is_not_mixed_in(log, redis, chat_id):
    entries = await all_of(log, chat_id)
    await redis.xadd(keys.packed(chat_id), {PACKED: b"rubbish"}, id="9-9")
    await log.compact(chat_id)
    assert await all_of(log, chat_id) == entries


async def test_a_reader_in_the_middle_does_not_notice(log, chat_id):
    whole = await all_of(log, chat_id)
    for place in range(0, len(whole), 50):
        position, got = START, []
        while page := await log.read(chat_id, position, 7):
            got += page
            position = got[-1].id
            if len(got) >= place:
                await log.compact(chat_id)
        assert got == whole
