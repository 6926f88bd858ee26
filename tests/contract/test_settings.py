"""Settings: where Redis may be, and what a bad value leads to."""

from contextlib import ExitStack

import pytest
from harness.client import body
from harness.polling import wait_until
from harness.processes import free_port

COMMANDS = {
    "piropiro api": ("-m", "cli", "api", "--port", "0"),
    "piropiro worker": ("-m", "cli", "worker"),
    "uvicorn": ("-m", "uvicorn", "api.main:app", "--port", "0"),
    "arq": ("-m", "arq", "worker.main.WorkerSettings"),
}


@pytest.fixture
def bare(start_stack):
    """A server alone."""
    return start_stack(apis=0, workers=0)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
async def test_bad_values_stop_the_start_and_are_all_named(bare, command):
    bare.set_environment(PIROPIRO_LEASE="soon", PIROPIRO_MAX_JOBS="0")
    process = bare.start_worker(*command)
    await wait_until(lambda: process.exit_status is not None)
    assert process.exit_status != 0
    assert "PIROPIRO_LEASE" in process.output()
    assert "PIROPIRO_MAX_JOBS" in process.output()
    assert "Traceback" not in process.output()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{closed}/0", "http://127.0.0.1/", "unix:///nowhere/at/all"])
async def test_a_redis_that_cannot_be_reached_stops_the_start_in_one_line(bare, url):
    bare.set_environment(REDIS_URL=url.format(closed=free_port()))
    process = bare.start_worker("-m", "cli", "api", "--port", "0")
    await wait_until(lambda: process.exit_status is not None)
    assert process.exit_status != 0
    assert len(process.output().strip().splitlines()) == 1
    assert "REDIS_URL" in process.output()


@pytest.mark.parametrize("scheme", ["unix", "redis+sentinel"])
async def test_redis_is_found_by_every_kind_of_url(bare, connect, scheme):
    with ExitStack() as cleanup:
        url = f"unix://{bare.server.socket}?db=1"
        if scheme == "redis+sentinel":
            port = free_port()
            cleanup.callback(bare.server.start_sentinel(port).kill)
            url = f"redis+sentinel://127.0.0.1:{port}/mymaster/1"
        bare.set_environment(REDIS_URL=url)
        bare.start(apis=1, workers=1)
        reading = await connect(bare.apis[0].url).ask(body({"deltas": ["a"]}))
    assert [event.data for event in reading.events] == ["a", "[DONE]"]
    assert set(bare.server.client.info("keyspace")) == {"db1"}


async def test_the_default_model_is_a_setting(start_stack, connect, simulator, key):
    stack = start_stack(model="house-model")
    await connect(stack.apis[0].url).ask(body({"key": key, "deltas": ["a"]}))
    assert (await simulator.request(key))["model"] == "house-model"
