"""Keep-alives, and the end of what an ended chat leaves behind."""

import pytest
from harness.client import body
from harness.sse import decode_by_oracle, decoded, raw_of

PAUSE = {"deltas": ["a", "b"], "fault": {"kind": "stall", "after": 1, "seconds": 1.5}}


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_keep_alive_is_one_line_without_an_empty_one(talkative_api, form):
    reading = await talkative_api.ask(body(PAUSE), form=form)
    assert reading.comments
    assert reading.received.count(b": keep-alive\n") == len(reading.comments)
    assert reading.received.replace(b": keep-alive\n", b"") == raw_of(reading.events)


async def test_keep_alives_are_no_events_to_an_independent_decoder(talkative_api):
    reading = await talkative_api.ask(body(PAUSE))
    assert reading.comments
    assert decode_by_oracle(reading.received) == decoded(reading.events)


async def test_events_put_off_the_keep_alive(start_stack, connect):
    api = connect(start_stack(keepalive=1).apis[0].url)
    reading = await api.ask(body({"tokens": 300, "interval": 0.01}))
    assert len(reading.comments) <= 1
