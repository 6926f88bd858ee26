"""A server that is lost in mid-stream and comes back with what it acknowledged."""

import pytest
from harness.client import body, numbered
from harness.sse import raw_of

DELTAS = numbered(100)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_server_restarted_in_mid_stream_costs_nothing(start_stack, connect, form):
    stack = start_stack(is_durable=True)
    api = connect(stack.apis[0].url)
    async with api.posting(body({"deltas": DELTAS, "interval": 0.02}), form=form) as reading:
        await reading.first(20)
        stack.server.process.kill()
        stack.server.start()
        await reading.rest()
    assert reading.events[-1].name == "done"
    kept = [event for event in reading.events if event.id]
    assert raw_of(kept) == (await api.read(reading.chat_id, form=form)).received
    assert (await api.chat(reading.chat_id))["text"] == "".join(DELTAS)
