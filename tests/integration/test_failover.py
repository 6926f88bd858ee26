"""A server that forgets what it had acknowledged, as a failover to a lagging replica does."""

import pytest
from harness.client import body, numbered
from harness.polling import wait_until
from harness.sse import raw_of

DELTAS = numbered(100)


class Snapshot:
    """What the server knows of one chat at this moment, to be put back later."""

    def __init__(self, redis, chat_id):
        self._redis = redis
        self._chat_id = chat_id
        self._worker = redis.hget("piropiro:running", chat_id)
        self._dumps = {key: redis.dump(key) for key in redis.scan_iter(f"piropiro:{{{chat_id}}}:*")}

    def restore(self):
        with self._redis.pipeline(transaction=True) as pipe:
            for key, dump in self._dumps.items():
                pipe.restore(key, 0, dump, replace=True)
            pipe.hset("piropiro:running", self._chat_id, self._worker)
            pipe.execute()


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_running_chat_is_healed_by_its_writer(stack, api, other_api, form):
    async with api.posting(body({"deltas": DELTAS, "interval": 0.05}), form=form) as reading:
        await reading.first(20)
        snapshot = Snapshot(stack.server.client, reading.chat_id)
        await reading.first(40)
        snapshot.restore()
        await reading.rest()
    assert reading.events[-1].name == "done"
    whole = await other_api.read(reading.chat_id, form=form)
    assert raw_of(event for event in reading.events if event.id) == whole.received
    assert (await api.chat(reading.chat_id))["text"] == "".join(DELTAS)


async def test_a_cursor_that_the_server_forgot_is_reported(stack, api, other_api):
    async with api.posting(body({"deltas": DELTAS, "interval": 0.05})) as reading:
        await reading.first(20)
        snapshot = Snapshot(stack.server.client, reading.chat_id)
        await reading.rest()
    snapshot.restore()
    answer = await other_api.http.get(
        f"/v1/chats/{reading.chat_id}/stream", headers={"Last-Event-ID": reading.events[90].id}
    )
    assert answer.status_code == 410
    assert answer.json()["error"]["code"] == "cursor_lost"


async def test_a_chat_whose_end_was_forgotten_ends_again(stack, api):
    async with api.posting(body({"deltas": DELTAS, "interval": 0.05})) as reading:
        await reading.first(20)
        snapshot = Snapshot(stack.server.client, reading.chat_id)
        await reading.rest()
    snapshot.restore()

    async def has_ended():
        return (await api.chat(reading.chat_id))["status"] in ("done", "failed")

    await wait_until(has_ended, timeout=15)
