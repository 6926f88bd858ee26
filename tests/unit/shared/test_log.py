import asyncio
import time
from dataclasses import replace
from unittest.mock import ANY

import pytest

from shared import events, keys
from shared.chat import OnWorkerLoss, Status, Surface, new_chat_id
from shared.cursor import ACCEPTED, START, TERMINAL, EntryId
from shared.log import (
    Appended,
    Batch,
    Behind,
    Claimed,
    Fenced,
    Gone,
    Publication,
    Refused,
    Sealed,
)
from shared.queue import Created, HandedOver, NewChat
from shared.subscriber import Callbacks, Subscriber

DONE = events.done("stop", None)
CANCELLED = events.cancelled()


@pytest.fixture
async def chat_id(queue):
    return await create(queue)


async def create(queue, **options):
    chat = NewChat(new_chat_id(), "m/1", b'{"x":1}', "fingerprint", **options)
    assert await queue.submit(chat, max_queue=10) == Created()
    return chat.id


async def claim(log, chat_id, token="A", **options):
    return await log.claim(chat_id, token=token, worker_id=f"worker-{token}", reason="why", **options)


async def append(log, chat_id, token, attempt, *args, **options):
    before = sum(entry.id <= (attempt, 0) for entry in await log.read(chat_id, START, 10_000))
    (result,) = await log.append([Batch(chat_id, token, attempt, before, *args, **options)])
    return result


async def values(log, chat_id):
    return [(str(entry.id), entry.value) for entry in await log.read(chat_id, START, 1000)]


async def status(log, chat_id):
    found = await log.snapshot(chat_id)
    return found[0].status


async def test_a_claim_begins_the_next_attempt(log, chat_id):
    assert await status(log, chat_id) is Status.QUEUED
    claimed = await claim(log, chat_id)
    assert claimed == Claimed(1, claimed.elapsed_ms, 0, b'{"x":1}', continues=False, predecessor=ACCEPTED, length=2)
    assert await status(log, chat_id) is Status.RUNNING
    (_, (beginning, value)) = await values(log, chat_id)
    entry = (await log.read(chat_id, ACCEPTED, 1))[0]
    assert (beginning, entry.payload()) == ("1-0", {"model": "m/1", "token": "A"})
    assert value.startswith(b"S")


async def test_a_claim_sent_twice_claims_once(log, chat_id):
    first = await claim(log, chat_id)
    again = await claim(log, chat_id)
    assert again.attempt == first.attempt == 1
    assert len(await values(log, chat_id)) == 2


async def test_the_later_claim_fences_the_earlier(log, chat_id):
    await claim(log, chat_id, "A")
    assert (await claim(log, chat_id, "B")).attempt == 2
    assert await append(log, chat_id, "A", 1, 1, [b"tx"]) == Fenced()
    assert await append(log, chat_id, "B", 2, 1, [b"tx"]) == Appended()


async def test_a_claim_in_place_of_a_token_needs_that_token(log, chat_id):
    await claim(log, chat_id, "A")
    assert await claim(log, chat_id, "B", previous="Z") == Fenced()
    assert (await claim(log, chat_id, "B", previous="A", failed=True)).failures == 1


async def forget_claim(redis, queue, chat_id):
    """Let the server know of the chat only that it waits, as after a failover to a replica that lagged."""
    await redis.delete(keys.record(chat_id), keys.log(chat_id), keys.RUNNING)
    await queue.submit(NewChat(chat_id, "m/1", b'{"x":1}', "fingerprint"), max_queue=10)


async def reclaim(log, chat_id, claimed, token="A", **options):
    return await log.reclaim(chat_id, claimed, token=token, worker_id=f"worker-{token}", reason="why", **options)


async def test_a_forgotten_claim_is_claimed_again_as_it_was(redis, log, queue, chat_id):
    claimed = await claim(log, chat_id)
    before = await values(log, chat_id)
    await forget_claim(redis, queue, chat_id)
    assert await reclaim(log, chat_id, claimed)
    assert await reclaim(log, chat_id, claimed)
    assert await values(log, chat_id) == before
    assert await status(log, chat_id) is Status.RUNNING
    assert await redis.zcard(keys.WAITING) == 0


async def test_a_forgotten_claim_that_replaced_another_is_claimed_again_after_that(redis, log, chat_id):
    await claim(log, chat_id, "A")
    await append(log, chat_id, "A", 1, 1, [b"tx"])
    kept = {key: await redis.dump(key) for key in (keys.record(chat_id), keys.log(chat_id))}
    claimed = await claim(log, chat_id, "B", previous="A", failed=True)
    before = await values(log, chat_id)
    for key, dump in kept.items():
        await redis.restore(key, 0, dump, replace=True)
    assert not await reclaim(log, chat_id, claimed, "B")
    assert await reclaim(log, chat_id, claimed, "B", previous="A", failed=True)
    assert await values(log, chat_id) == before
    assert await append(log, chat_id, "A", 1, 2, [b"ty"]) == Fenced()


async def test_a_claim_is_not_made_again_where_another_came_between(redis, log, queue, chat_id):
    claimed = await claim(log, chat_id, "A")
    await forget_claim(redis, queue, chat_id)
    await claim(log, chat_id, "B")
    before = await values(log, chat_id)
    assert not await reclaim(log, chat_id, claimed)
    assert await values(log, chat_id) == before


async def test_a_claim_on_a_server_promoted_since_gives_no_number_that_may_have_been_given(redis, log, chat_id):
    await redis.hset(keys.record(chat_id), "promotion", "another")
    first = (await claim(log, chat_id, "A")).attempt
    assert first == pytest.approx(1000 * time.time(), abs=60_000)
    assert (await claim(log, chat_id, "B")).attempt == first + 1
    assert await append(log, chat_id, "B", first + 1, 1, [b"tx"]) == Appended()
    await redis.hset(keys.record(chat_id), "promotion", "a third")
    third = (await claim(log, chat_id, "C")).attempt
    assert third > first + 1
    assert (third - 1) % 1000 == 0
    assert [entry.kind for entry in await log.read(chat_id, START, 9)] == [b"A", b"S", b"S", b"t", b"R"]
    assert (await log.snapshot(chat_id))[0].attempts == 3


async def test_an_attempt_after_one_without_chunks_is_started(log, chat_id):
    await claim(log, chat_id, "A")
    await claim(log, chat_id, "B")
    assert [entry.kind for entry in await log.read(chat_id, START, 9)] == [b"A", b"S", b"S"]


async def test_an_attempt_after_one_with_chunks_is_a_restart_also_when_one_without_lies_between(log, chat_id):
    await claim(log, chat_id, "A")
    await append(log, chat_id, "A", 1, 1, [b"tx"])
    await claim(log, chat_id, "B")
    await claim(log, chat_id, "C")
    entries = await log.read(chat_id, START, 9)
    assert [entry.kind for entry in entries] == [b"A", b"S", b"t", b"R", b"R"]
    assert entries[3].payload() == {"reason": "why", "token": "B"}


async def test_a_continuing_attempt_is_started(log, queue):
    chat_id = await create(queue, on_worker_loss=OnWorkerLoss.CONTINUE)
    assert (await claim(log, chat_id, "A")).continues is False
    await append(log, chat_id, "A", 1, 1, [b"tx"])
    assert (await claim(log, chat_id, "B")).continues is True
    assert (await claim(log, chat_id, "B")).continues is True
    assert [entry.kind for entry in await log.read(chat_id, START, 9)] == [b"A", b"S", b"t", b"S"]


async def test_a_claim_is_refused_where_the_chat_is_to_fail_and_the_claimant_may_seal_it(log, queue):
    chat_id = await create(queue, on_worker_loss=OnWorkerLoss.FAIL)
    await claim(log, chat_id, "A")
    assert (await claim(log, chat_id, "B")).attempt == 2
    await append(log, chat_id, "B", 2, 1, [b"tx"])
    assert await claim(log, chat_id, "C") == Refused()
    assert await claim(log, chat_id, "C") == Refused()
    assert await append(log, chat_id, "B", 2, 2, [b"tx"]) == Fenced()
    failed = events.error("lost", "server_error", "worker_lost")
    assert await log.seal(chat_id, failed, only_token="C") == Sealed(failed)
    found, _ = await log.snapshot(chat_id)
    assert (found.status, found.attempts) == (Status.FAILED, 2)


async def test_chunks_are_numbered_without_holes(log, chat_id):
    await claim(log, chat_id)
    assert await append(log, chat_id, "A", 1, 1, [b"ta", b"tb"]) == Appended()
    assert await append(log, chat_id, "A", 1, 3, [b"tc"]) == Appended()
    assert (await values(log, chat_id))[2:] == [("1-1", b"ta"), ("1-2", b"tb"), ("1-3", b"tc")]


@pytest.mark.parametrize(("first", "batch"), [(1, [b"ta", b"tb"]), (2, [b"tb", b"tc"]), (4, [b"td"]), (9, [b"tz"])])
async def test_a_batch_with_another_predecessor_is_told_the_top_and_stores_nothing(log, chat_id, first, batch):
    await claim(log, chat_id)
    await append(log, chat_id, "A", 1, 1, [b"ta", b"tb"])
    before = await values(log, chat_id)
    assert await append(log, chat_id, "A", 1, first, batch) == Behind(EntryId(1, 2))
    assert await values(log, chat_id) == before


async def test_a_batch_may_end_with_the_terminal_entry_or_be_that_alone(log, queue):
    for batch in ([b"ta"], []):
        chat_id = await create(queue)
        await claim(log, chat_id)
        assert await append(log, chat_id, "A", 1, 1, batch, DONE) == Sealed(DONE)
        assert (await values(log, chat_id))[-1] == (str(TERMINAL), DONE)


async def test_a_done_sent_again_recognises_its_own(log, chat_id):
    await claim(log, chat_id)
    await append(log, chat_id, "A", 1, 1, [b"ta"], DONE)
    assert await append(log, chat_id, "A", 1, 1, [b"ta"], DONE) == Sealed(DONE)
    assert len(await values(log, chat_id)) == 4


@pytest.mark.parametrize(
    ("terminal", "expected"),
    [(DONE, Status.DONE), (events.error("e", "t", None), Status.FAILED), (CANCELLED, Status.CANCELLED)],
)
async def test_a_sealed_log_takes_nothing_more_and_says_how_it_ended(log, chat_id, terminal, expected):
    await claim(log, chat_id)
    assert await log.seal(chat_id, terminal) == Sealed(terminal)
    assert await append(log, chat_id, "A", 1, 1, [b"ta"]) == Sealed(terminal)
    assert await log.seal(chat_id, b"X{}") == Sealed(terminal)
    assert await claim(log, chat_id, "B") == Sealed(terminal)
    assert await status(log, chat_id) is expected
    assert [value for _, value in await values(log, chat_id)][-1] == terminal


async def test_a_waiting_chat_can_be_sealed_without_any_worker(log, queue, redis, chat_id):
    assert await queue.positions([chat_id]) == [1]
    assert await log.seal(chat_id, CANCELLED) == Sealed(CANCELLED)
    assert await queue.positions([chat_id]) == [None]
    assert await claim(log, chat_id) == Sealed(CANCELLED)


async def test_sealing_can_depend_on_token_and_status(log, chat_id):
    await claim(log, chat_id)
    assert await log.seal(chat_id, DONE, only_token="Z") == Fenced()
    assert await log.seal(chat_id, DONE, only_status=Status.QUEUED) == Fenced()
    assert await log.seal(chat_id, DONE, only_token="A", only_status=Status.RUNNING) == Sealed(DONE)


async def test_nothing_resurrects_a_log_that_is_gone(log, queue, redis):
    chat_id = new_chat_id()
    assert await claim(log, chat_id) == Gone()
    assert await append(log, chat_id, "A", 1, 1, [b"ta"]) == Gone()
    assert await append(log, chat_id, "A", 1, 1, [], DONE) == Gone()
    assert await log.seal(chat_id, CANCELLED) == Gone()
    assert await queue.hand_over(chat_id, "A", failed=True) == Gone()
    assert await log.snapshot(chat_id) is None
    assert await redis.keys() == []


async def test_an_ended_chat_expires_with_its_key_and_a_live_one_does_not(log, queue, redis):
    chat_id = await create(queue, idempotency_key="k")
    kept = [keys.record(chat_id), keys.log(chat_id), keys.idempotency("k")]
    await claim(log, chat_id)
    assert [await redis.pttl(key) for key in kept] == [-1, -1, -1]
    await append(log, chat_id, "A", 1, 1, [], DONE)
    for key in kept:
        assert 59_000 < await redis.pttl(key) <= 60_000
    assert await redis.exists(keys.RUNNING, keys.WAITING) == 0


async def test_a_handover_fences_its_holder_and_enqueues_the_next_attempt(log, queue, chat_id):
    await claim(log, chat_id)
    assert await queue.hand_over(chat_id, "A", failed=True) == HandedOver()
    assert await queue.hand_over(chat_id, "A", failed=True) == Fenced()
    assert await append(log, chat_id, "A", 1, 1, [b"ta"]) == Fenced()
    assert await status(log, chat_id) is Status.QUEUED
    assert await queue.waiting(10) == [f"{chat_id}:2"]
    claimed = await claim(log, chat_id, "B")
    assert (claimed.attempt, claimed.failures) == (2, 1)
    await log.seal(chat_id, DONE)
    assert await queue.hand_over(chat_id, "B", failed=False) == Sealed(DONE)


async def test_several_chats_are_appended_in_one_round_trip_each_on_its_own(log, queue):
    a, b = await create(queue), await create(queue)
    await claim(log, a, "A")
    await claim(log, b, "B")
    results = await log.append(
        [
            Batch(a, "A", 1, 2, 1, [b"ta"]),
            Batch(b, "Z", 1, 2, 1, [b"tb"]),
            Batch("x", "A", 1, 2, 1, []),
            Batch(b, "B", 1, 2, 1, [b"tc", b"td"]),
        ]
    )
    assert results == [Appended(), Fenced(), Gone(), Appended()]
    assert (await values(log, a))[2:] == [("1-1", b"ta")]
    assert (await values(log, b))[2:] == [("1-1", b"tc"), ("1-2", b"td")]


async def test_more_than_one_script_takes_are_appended_all_the_same(log, queue):
    chats = [await create(queue) for _ in range(6)]
    for chat in chats:
        await claim(log, chat, "A")
    batches = [Batch(chat, "A", 1, 2, 1, [b"t%d" % n for n in range(100)]) for chat in chats]
    batches[3] = batches[3]._replace(token="Z")
    results = await log.append(batches)
    assert results == [Appended()] * 3 + [Fenced()] + [Appended()] * 2
    for chat, batch, result in zip(chats, batches, results, strict=True):
        stored = [value for _, value in (await values(log, chat))[2:]]
        assert stored == (batch.values if result == Appended() else [])


@pytest.mark.parametrize("redis", ["real"], indirect=True)
async def test_a_log_of_the_right_length_that_lost_entries_and_was_sealed_takes_no_chunks(log, redis, chat_id):
    await claim(log, chat_id)
    await append(log, chat_id, "A", 1, 1, [b"ta"])
    await redis.xdel(keys.log(chat_id), "1-1")  # as a failover may forget it
    await log.seal(chat_id, DONE)
    (result,) = await log.append([Batch(chat_id, "A", 1, 2, 2, [b"tb", b"tc"])])
    assert result == Sealed(DONE)
    assert [id_ for id_, _ in await values(log, chat_id)] == ["0-1", "1-0", str(TERMINAL)]


async def test_scripts_are_loaded_again_after_the_server_forgot_them(log, redis, chat_id):
    await claim(log, chat_id)
    await append(log, chat_id, "A", 1, 1, [b"ta"])
    await redis.script_flush()
    assert await append(log, chat_id, "A", 1, 2, [b"tb"]) == Appended()
    await redis.script_flush()
    assert await log.seal(chat_id, DONE) == Sealed(DONE)


async def test_reading_is_exclusive_of_the_cursor_and_bounded(log, chat_id):
    await claim(log, chat_id)
    await append(log, chat_id, "A", 1, 1, [b"ta", b"tb"], DONE)
    assert [str(entry.id) for entry in await log.read(chat_id, ACCEPTED, 2)] == ["1-0", "1-1"]
    assert [entry.value for entry in await log.read(chat_id, EntryId(1, 1), 9)] == [b"tb", DONE]
    assert await log.read(chat_id, TERMINAL, 9) == []
    assert [str(entry.id) for entry in await log.read_from(chat_id, EntryId(1, 2), 1)] == ["1-2"]
    assert await log.top(chat_id) == TERMINAL
    assert await log.top("nobody") is None


async def test_looking_up_a_cursor_tells_whether_it_names_an_entry(log, chat_id):
    await claim(log, chat_id)
    for entry_id, exists in ((ACCEPTED, True), (EntryId(1, 0), True), (EntryId(1, 1), False), (TERMINAL, False)):
        chat, is_entry = await log.look_up(chat_id, entry_id)
        assert (chat.id, is_entry) == (chat_id, exists)
    assert await log.look_up("nobody", ACCEPTED) == (None, False)


async def test_owners_are_the_tokens_of_running_chats(log, queue):
    running, waiting, ended = await create(queue), await create(queue), await create(queue)
    await claim(log, running, "A")
    await claim(log, ended, "B")
    await log.seal(ended, DONE)
    assert await log.owners([running, waiting, ended, "nobody"]) == [b"A", None, None, None]


async def test_the_tops_of_many_logs_are_read_at_once(log, chat_id):
    await claim(log, chat_id)
    assert await log.tops([chat_id, "chat_none"]) == [EntryId(1, 0), None]
    await log.seal(chat_id, CANCELLED)
    assert await log.tops([chat_id]) == [TERMINAL]


async def test_every_append_is_published_once_with_its_predecessor(log, redis, chat_id):
    heard, acknowledged = asyncio.Queue(), asyncio.Event()
    if "fake" in type(redis).__name__.lower():
        pubsub = redis.pubsub()
        await pubsub.subscribe(keys.log(chat_id))

        async def hear():
            async for message in pubsub.listen():
                if message["type"] == "message":
                    heard.put_nowait(message["data"])

        hearing = asyncio.create_task(hear())
    else:
        subscriber = Subscriber(redis)
        subscriber.subscribe(keys.log(chat_id), Callbacks(acknowledged.set, heard.put_nowait))
        hearing = asyncio.create_task(subscriber.run())
        await acknowledged.wait()
    await claim(log, chat_id)
    await append(log, chat_id, "A", 1, 1, [b"ta\n1", "tや".encode()])
    await append(log, chat_id, "A", 1, 1, [b"ta\n1"])
    await append(log, chat_id, "A", 1, 3, [b"t"])
    await log.seal(chat_id, CANCELLED)
    publications = [Publication.parse(await heard.get()) for _ in range(4)]
    assert [str(p.predecessor) for p in publications] == ["0-1", "1-0", "1-2", "1-3"]
    published = [entry for p in publications for entry in p.entries]
    assert published == await log.read(chat_id, ACCEPTED, 9)
    assert heard.empty()
    hearing.cancel()
    await asyncio.gather(hearing, return_exceptions=True)
    if "fake" in type(redis).__name__.lower():
        await pubsub.aclose()


async def test_a_seal_by_another_tells_the_worker(log, redis, chat_id):
    pubsub = redis.pubsub()
    await pubsub.subscribe(keys.worker_channel("worker-A"))
    await claim(log, chat_id)
    await log.seal(chat_id, CANCELLED)
    messages = []
    while not messages:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
        messages += [message] if message else []
    assert messages[0]["data"] == chat_id.encode()
    await pubsub.aclose()


async def test_the_record_keeps_what_the_surface_wants_back(log, queue):
    chat_id = await create(queue, surface=Surface.RESPONSES, origin=b'{"x":1}')
    found = await log.find(chat_id)
    assert (found.surface, found.origin) == (Surface.RESPONSES, b'{"x":1}')
    assert await log.request(chat_id) == b'{"x":1}'
    native = await log.find(await create(queue))
    assert (native.surface, native.origin) == (Surface.NATIVE, b"{}")
    assert await log.find("chat_unknown") is None
    assert await log.request("chat_unknown") is None


async def test_a_record_of_before_there_were_surfaces_is_native(redis, log, chat_id):
    await redis.hdel(keys.record(chat_id), "surface", "origin")
    found = await log.find(chat_id)
    assert (found.surface, found.origin) == (Surface.NATIVE, b"{}")


async def test_a_retention_of_the_chats_own_goes_before_everybodys(redis, log, queue):
    chat_id = await create(queue, retention_ms=5000, idempotency_key="own")
    await claim(log, chat_id)
    await append(log, chat_id, "A", 1, 1, [b"tx"], DONE)
    for key in (keys.record(chat_id), keys.log(chat_id), keys.idempotency("own")):
        assert 0 < await redis.pttl(key) <= 5000


async def test_the_last_restart_is_found_wherever_it_is(log, chat_id):
    assert await log.last_restart(chat_id) == START
    await claim(log, chat_id, "A")
    await append(log, chat_id, "A", 1, 1, [b"tx"] * 1000)
    assert await log.last_restart(chat_id) == START
    await claim(log, chat_id, "B", previous="A")
    await append(log, chat_id, "B", 2, 1, [b"ty"] * 1000)
    assert await log.last_restart(chat_id) == EntryId(2, 0)
    await claim(log, chat_id, "C", previous="B")
    await append(log, chat_id, "C", 3, 1, [b"tz"] * 1000, DONE)
    assert await log.last_restart(chat_id) == EntryId(3, 0)
    assert await log.last_restart("chat_unknown") == START


@pytest.mark.parametrize("stage", ["queued", "running", "ended"])
async def test_a_deleted_chat_leaves_nothing_and_its_writer_is_told(redis, log, queue, stage):
    chat_id = await create(queue, idempotency_key="gone")
    await queue.keep_readers([chat_id])
    if stage != "queued":
        await claim(log, chat_id)
        terminal = DONE if stage == "ended" else None
        await append(log, chat_id, "A", 1, 1, [b"tx"], terminal)
    assert await log.delete(chat_id)
    names = (keys.record(chat_id), keys.log(chat_id), keys.idempotency("gone"), keys.RUNNING, keys.WAITING, keys.READ)
    assert [name for name in names if await redis.exists(name)] == []
    assert not await log.delete(chat_id)
    assert await claim(log, chat_id, "B") == Gone()
    assert await append(log, chat_id, "A", 1, 2, [b"ty"]) == Gone()


async def test_the_answer_of_a_deleted_chat_is_stopped_also_if_its_name_comes_later(log, queue):
    before, after = await create(queue), await create(queue)
    for chat_id in (before, after):
        await claim(log, chat_id)
    assert await log.note_answer(before, "before", token="A")
    await log.delete(before)
    await log.delete(after)
    assert not await log.note_answer(after, "after", token="A")
    assert sorted(await log.take_abandoned(10)) == ["after", "before"]


async def test_the_answer_of_an_attempt_that_was_fenced_is_its_successors_business(log, chat_id):
    await claim(log, chat_id, "A")
    await claim(log, chat_id, "B")
    assert not await log.note_answer(chat_id, "answer", token="A")
    assert await log.take_abandoned(10) == []


@pytest.mark.parametrize(
    "redis", ["real"], indirect=True
)  # the fake one has no connection of its own to subscribe with
async def test_readers_of_a_deleted_chat_are_told_that_it_was_cancelled(redis, log, chat_id):
    heard, subscribed = asyncio.Queue(), asyncio.Event()
    subscriber = Subscriber(redis)
    subscriber.subscribe(keys.log(chat_id), Callbacks(subscribed=subscribed.set, message=heard.put_nowait))
    running = asyncio.create_task(subscriber.run())
    async with asyncio.timeout(10):
        await subscribed.wait()
        await log.delete(chat_id)
        publication = Publication.parse(await heard.get())
    assert publication.predecessor == ACCEPTED
    assert [(entry.id, entry.value) for entry in publication.entries] == [(TERMINAL, CANCELLED)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_key_that_is_another_chats_by_now_is_not_deleted(redis, log, queue):
    chat_id = await create(queue, idempotency_key="shared")
    await redis.hset(keys.idempotency("shared"), "chat", "chat_later")
    assert await log.delete(chat_id)
    assert await redis.exists(keys.idempotency("shared"))


@pytest.mark.parametrize("choice", [OnWorkerLoss.RESTART, OnWorkerLoss.CONTINUE])
async def test_an_answer_that_the_upstream_can_go_on_with_is_continued(log, queue, choice):
    chat_id = await create(queue, on_worker_loss=choice)
    assert (await claim(log, chat_id, "A")).answer == ""
    assert await log.note_answer(chat_id, "resp_1", token="A")
    await append(log, chat_id, "A", 1, 1, [b"tx"])
    claimed = await claim(log, chat_id, "B")
    assert (claimed.answer, claimed.continues, claimed.lost) == ("resp_1", True, 0)
    assert await claim(log, chat_id, "B") == replace(claimed, elapsed_ms=ANY)
    assert [entry.kind for entry in await log.read(chat_id, START, 9)] == [b"A", b"S", b"t", b"S"]


async def test_a_lost_answer_leads_to_what_the_chat_chose(log, chat_id):
    await claim(log, chat_id, "A")
    await log.note_answer(chat_id, "resp_1", token="A")
    await append(log, chat_id, "A", 1, 1, [b"tx"])
    assert await log.lose_answer(chat_id, token="A")
    claimed = await claim(log, chat_id, "B")
    assert (claimed.answer, claimed.continues, claimed.lost) == ("", False, 1)
    assert [entry.kind for entry in await log.read(chat_id, START, 9)] == [b"A", b"S", b"t", b"R"]


async def test_only_the_owner_notes_or_loses_an_answer(log, chat_id):
    await claim(log, chat_id, "A")
    await log.note_answer(chat_id, "resp_1", token="A")
    await claim(log, chat_id, "B")
    assert not await log.note_answer(chat_id, "resp_2", token="A")
    assert not await log.lose_answer(chat_id, token="A")
    assert (await claim(log, chat_id, "C")).answer == "resp_1"


async def test_a_chat_that_is_to_fail_fails_even_if_its_answer_goes_on(log, queue):
    chat_id = await create(queue, on_worker_loss=OnWorkerLoss.FAIL)
    await claim(log, chat_id, "A")
    await log.note_answer(chat_id, "resp_1", token="A")
    await append(log, chat_id, "A", 1, 1, [b"tx"])
    assert await claim(log, chat_id, "B") == Refused()
    await log.seal(chat_id, CANCELLED, only_token="B")
    assert await log.take_abandoned(9) == ["resp_1"]


async def test_the_answer_of_a_chat_that_ends_without_it_is_abandoned_once(log, queue):
    for number, terminal in enumerate([DONE, CANCELLED, CANCELLED]):
        chat_id = await create(queue)
        await claim(log, chat_id, "A")
        await log.note_answer(chat_id, f"resp_{number}", token="A")
        await log.seal(chat_id, terminal)
    assert sorted(await log.take_abandoned(1) + await log.take_abandoned(9)) == ["resp_1", "resp_2"]
    assert await log.take_abandoned(9) == []


async def test_an_answer_that_is_noted_after_the_end_is_abandoned(log, chat_id):
    await claim(log, chat_id, "A")
    await log.seal(chat_id, CANCELLED)
    assert not await log.note_answer(chat_id, "resp_1", token="A")
    assert await log.take_abandoned(9) == ["resp_1"]
