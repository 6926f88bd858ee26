"""How long chats are without a worker: when theirs is killed, and when all are dead and one comes later."""

import asyncio
import json
import time
from pathlib import Path
from random import Random

from faults import http
from faults.report import latencies, table
from faults.stack import Stack, Worker, running_stack
from faults.weather import watch_takeovers

CHATS = 200
_DELTAS = 2000
_INTERVAL = 0.1
_ALL_DEAD = 10.0
_POLL = 0.05


async def run(folder: Path) -> str:
    """Measure on an otherwise idle stack; the table."""
    async with running_stack(folder, Random(1), apis=1, workers=2, is_proxied=False) as stack:
        first, second = stack.workers
        await second.place.stop(patience=20.0)
        for _ in range(CHATS):
            await _post(stack)
        await _until_running(stack, first)
        await second.place.start()
        await stack.identify(second)
        one_dead = await _kill(stack, first)
        await _until_running(stack, second)
        chats, killed = await stack.chats_of(second), time.monotonic()
        await second.place.kill()
        all_dead = list[float]()
        watching = asyncio.create_task(watch_takeovers(stack, chats, killed, all_dead))
        await asyncio.sleep(_ALL_DEAD)
        came = time.monotonic()
        await first.place.start()
        await stack.identify(first)
        ready = time.monotonic() - came
        await watching
    return table(
        [
            (f"a worker with {CHATS} chats is killed, another lives", latencies(one_dead)),
            (f"the last worker is killed, one is started {_ALL_DEAD:g} s later", latencies(all_dead)),
            ("… counted from that start", latencies([seconds - (came - killed) for seconds in all_dead])),
            ("… of which the start of the process", f"{ready * 1000:.0f} ms"),
        ]
    )


async def _post(stack: Stack) -> None:
    script = {"deltas": ["x"] * _DELTAS, "ttft": 0, "interval": _INTERVAL}
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "simulator": script}).encode()
    async with http.request(stack.replicas[0].port, "POST", "/v1/chats", body=body) as answer:
        assert answer.status == 202, answer.status


async def _until_running(stack: Stack, worker: Worker) -> None:
    while len(await stack.chats_of(worker)) < CHATS:  # noqa: ASYNC110  # only Redis knows
        await asyncio.sleep(_POLL)


async def _kill(stack: Stack, worker: Worker) -> list[float]:
    chats, killed = await stack.chats_of(worker), time.monotonic()
    await worker.place.kill()
    times = list[float]()
    await watch_takeovers(stack, chats, killed, times)
    return times
