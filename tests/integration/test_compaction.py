"""A chat that has ended is compacted, and nobody who reads it can tell."""

import asyncio

import pytest
from harness.client import body, numbered
from harness.polling import wait_until
from harness.sse import raw_of

DELTAS = [*numbered(300), "や", "", "a\nb\n", "data: x", "x" * 20_000, *numbered(300)]


def rows_of(stack, chat_id):
    return stack.server.client.xlen(f"piropiro:{{{chat_id}}}:log")


async def compacted(stack, chat_id):
    await wait_until(lambda: 0 < rows_of(stack, chat_id) < 10)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_every_cursor_of_a_compacted_chat_resumes_to_exactly_the_rest(stack, api, other_api, form):
    chat = await api.create(body({"deltas": DELTAS, "interval": 0.001}))
    live = await api.read(chat["id"], form=form)
    await compacted(stack, chat["id"])
    whole = await other_api.read(chat["id"], form=form)
    assert whole.received == raw_of(event for event in live.events if event.id)
    assert (await api.chat(chat["id"]))["text"] == "".join(DELTAS)

    async def check(place):
        client = (api, other_api)[place % 2]
        rest = await client.read(chat["id"], form=form, cursor=whole.events[place].id)
        assert raw_of(whole.events[: place + 1]) + rest.received == whole.received

    for start in range(0, len(whole.events), 20):
        await asyncio.gather(*map(check, range(start, min(start + 20, len(whole.events)))))


async def test_a_cursor_that_never_was_is_none_of_a_compacted_chat(stack, api):
    chat = await api.ask(body({"deltas": DELTAS}))
    await compacted(stack, chat.chat_id)
    for never in ("0-2", "1-5000", "2-0", "7-7"):
        assert (await api.read(chat.chat_id, cursor=f"{chat.chat_id}:{never}")).status == 410


async def test_a_cancelled_chat_is_compacted_as_well(stack, api):
    async with api.posting(body({"deltas": numbered(1000), "interval": 0.005})) as reading:
        taken = await reading.first(100)
        await api.cancel(reading.chat_id)
        await reading.rest()
    await compacted(stack, reading.chat_id)
    again = await api.read(reading.chat_id, cursor=taken[-1].id)
    assert raw_of(taken) + again.received == reading.received


async def test_a_reader_who_is_slow_while_the_chat_is_compacted_gets_everything(stack, api):
    """It has read a little of what fits between the two; most of the rest still lies in the stream."""
    chat = await api.create(body({"tokens": 20_000}))
    async with api.following(chat["id"], form="json") as reading:
        await reading.first(10)
        await api.chat_when(chat["id"], "done", within=30)
        await wait_until(lambda: rows_of(stack, chat["id"]) < 100)
        assert len(reading.events) < 10_000
        await reading.rest()
    whole = await api.read(chat["id"], form="json")
    assert len(whole.events) > 20_000
    assert raw_of(event for event in reading.events if event.id) == whole.received
