"""Any set of disconnects and resumes, on any replicas, gives the same bytes as no disconnect."""

import asyncio
from itertools import cycle

import pytest
from harness.client import body, numbered
from harness.sse import parse, raw_of, text_of

DELTAS = ["や", "っ", " ほ ", "\n", "a\nb\n", "", "👩‍👩‍👧", "data: x", *numbered(16)]
FORMS = ["text", "json"]


async def read_in_cuts(clients, chat_id, form, lengths):
    """The bytes of a client that leaves after `lengths` events and resumes on the next replica, until the end."""
    received, cursor = b"", None
    while True:
        async with next(clients).following(chat_id, form=form, cursor=cursor) as reading:
            if reading.status == 204:
                return received
            length = next(lengths)
            await reading.until(lambda reading, length=length: len(reading.events) >= length or ends(reading.events))
        taken = [event for event in reading.events if event.id][:length]
        received += raw_of(taken)
        cursor = taken[-1].id if taken else cursor


def ends(events):
    return bool(events) and events[-1].is_terminal


@pytest.mark.parametrize("form", FORMS)
async def test_a_resume_after_each_event_gives_what_is_missing(api, other_api, form):
    whole = await api.ask(body({"deltas": DELTAS}))
    whole = await api.read(whole.chat_id, form=form)
    for position, client in zip(range(1, len(whole.events)), cycle([other_api, api])):
        again = await client.read(whole.chat_id, form=form, cursor=whole.events[position - 1].id)
        assert raw_of(whole.events[:position]) + again.received == whole.received


@pytest.mark.parametrize("form", FORMS)
async def test_live_resumes_after_each_event_on_alternating_replicas_give_the_same_bytes(api, other_api, form):
    chat = await api.create(body({"deltas": DELTAS, "interval": 0.02}))
    pieces = await read_in_cuts(cycle([api, other_api]), chat["id"], form, cycle([1]))
    assert pieces == raw_of((await api.read(chat["id"], form=form)).events)


@pytest.mark.parametrize("form", FORMS)
async def test_a_live_cut_at_each_position_loses_nothing(api, other_api, form):
    clients = cycle([api, other_api])

    async def check(position):
        async with next(clients).posting(body({"deltas": DELTAS, "interval": 0.01}), form=form) as reading:
            taken = [event for event in await reading.first(position) if event.id]
        cursor = taken[-1].id if taken else None
        rest = await next(clients).read(reading.chat_id, form=form, cursor=cursor)
        whole = await next(clients).read(reading.chat_id, form=form)
        assert raw_of(taken) + raw_of(rest.events) == whole.received

    await asyncio.gather(*(check(position) for position in range(1, len(DELTAS))))


@pytest.mark.parametrize("form", FORMS)
async def test_a_cut_at_any_byte_loses_nothing(api, other_api, form):
    whole = await api.ask(body({"deltas": DELTAS}))
    whole = await api.read(whole.chat_id, form=form)

    async def check(client, length):
        kept = parse(whole.received[:length])
        rest = await client.read(whole.chat_id, form=form, cursor=kept[-1].id if kept else None)
        assert raw_of(kept) + rest.received == whole.received

    cuts = [*range(150), *range(150, len(whole.received), 11), len(whole.received) - 1]
    for start in range(0, len(cuts), 10):
        await asyncio.gather(*map(check, cycle([api, other_api]), cuts[start : start + 10]))


async def test_a_live_cut_at_any_byte_loses_nothing(api, other_api):
    async def check(client, length):
        chat = await api.create(body({"deltas": DELTAS, "interval": 0.02}))
        async with client.following(chat["id"]) as reading:
            await reading.until(lambda reading: len(reading.received) >= length)
        kept = parse(reading.received[:length])
        rest = await client.read(chat["id"], cursor=kept[-1].id if kept else None)
        assert raw_of(kept) + rest.received == (await api.read(chat["id"])).received

    await asyncio.gather(*map(check, cycle([api, other_api]), range(1, 1000, 29)))


@pytest.mark.parametrize("form", FORMS)
async def test_two_followers_on_two_replicas_get_the_same_bytes(api, other_api, form):
    chat = await api.create(body({"deltas": DELTAS, "interval": 0.01}))
    one, other = await asyncio.gather(api.read(chat["id"], form=form), other_api.read(chat["id"], form=form))
    assert raw_of(event for event in one.events if event.id) == raw_of(event for event in other.events if event.id)


async def test_many_followers_that_join_at_any_time_get_the_same_bytes(api, other_api):
    deltas = numbered(60)
    async with api.posting(body({"deltas": deltas, "interval": 0.01})) as reading:
        joined = []
        for position, client in zip(range(1, 50, 3), cycle([api, other_api])):
            await reading.first(position)
            joined.append(asyncio.create_task(client.read(reading.chat_id)))
        await reading.rest()
    readings = await asyncio.gather(*joined)
    assert {each.received for each in readings} == {reading.received}
    assert text_of(reading.events) == "".join(deltas)


async def test_a_reader_after_the_end_gets_the_whole_chat_at_once(api, other_api):
    posted = await api.ask(body({"tokens": 3000}))
    assert len(posted.events) == 3001
    assert (await other_api.read(posted.chat_id)).received == posted.received


@pytest.mark.parametrize("form", FORMS)
async def test_a_long_answer_flat_out_is_whole_for_every_reader(api, other_api, form):
    deltas = ["x" * 200] * 5000
    chat = await api.create(body({"deltas": deltas}))
    one, other = await asyncio.gather(api.read(chat["id"], form=form), other_api.read(chat["id"], form=form))
    late = await api.read(chat["id"], form=form)
    for reading in (one, other):
        assert raw_of(event for event in reading.events if event.id) == late.received
    assert (await api.chat(chat["id"]))["text"] == "".join(deltas)


async def test_a_clients_disconnect_does_not_stop_the_generation(api, simulator, key):
    posted = body({"key": key, "deltas": DELTAS, "interval": 0.02})
    async with api.posting(posted) as reading:
        await reading.first(2)
    assert (await api.chat_when(reading.chat_id, "done"))["text"] == "".join(DELTAS)
    assert await simulator.outcome(key) == "finished"


async def test_a_reader_that_comes_back_in_time_keeps_a_chat_that_its_absence_would_cancel(api, other_api):
    posted = body({"deltas": numbered(20), "interval": 0.05})
    async with api.posting(posted, x_piropiro_on_disconnect="cancel") as reading:
        taken = await reading.first(2)
    again = await other_api.read(reading.chat_id, cursor=taken[-1].id)
    assert again.events[-1].name == "done"
