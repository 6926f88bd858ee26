"""How long a cancel takes to be seen: by a follower at another replica, and by the upstream."""

import asyncio
import json
import time
from pathlib import Path
from random import Random

from faults import http
from faults.report import latencies, table
from faults.sse import Parser
from faults.stack import Stack, running_stack

_CHATS = 100
_FEW = 30
_SLOTS = 20
_DELTAS = 5000
_POLL = 0.05
_PATIENCE = 30.0


async def run(folder: Path) -> str:
    """Measure on an otherwise idle stack; the table."""
    settings = {"PIROPIRO_MAX_JOBS": str(_SLOTS)}
    async with running_stack(folder, Random(1), apis=2, workers=2, settings=settings, is_proxied=False) as stack:
        running = [await _cancel_one(stack, f"running-{number}", has_deltas=True) for number in range(_CHATS)]
        closed = [await _closed_after(stack, f"running-{number}", sent) for number, (_, sent) in enumerate(running)]
        filling = [await _post(stack, f"full-{number}") for number in range(2 * _SLOTS)]
        await _until_full(stack, 2 * _SLOTS)
        queued = [await _cancel_one(stack, f"queued-{number}", has_deltas=False) for number in range(_FEW)]
        for chat_id in filling:
            await _cancel(stack, chat_id)
        for worker in stack.workers:
            await worker.place.kill()
        dead = [await _cancel_one(stack, f"dead-{number}", has_deltas=False) for number in range(_FEW)]
    return table(
        [
            ("running, until a follower at another replica sees it", latencies([seen for seen, _ in running])),
            ("running, until the upstream's connection is closed", latencies(closed)),
            ("queued behind busy workers, until the follower sees it", latencies([seen for seen, _ in queued])),
            ("no worker alive, until the follower sees it", latencies([seen for seen, _ in dead])),
        ]
    )


async def _post(stack: Stack, key: str) -> str:
    script = {"key": key, "deltas": ["x"] * _DELTAS, "ttft": 0, "interval": 0.02}
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "simulator": script}).encode()
    async with http.request(stack.replicas[0].port, "POST", "/v1/chats", body=body) as answer:
        chat_id: str = (await answer.json())["id"]
        return chat_id


async def _cancel(stack: Stack, chat_id: str) -> None:
    async with http.request(stack.replicas[1].port, "POST", f"/v1/chats/{chat_id}/cancel") as answer:
        assert answer.status == 200, answer.status


async def _cancel_one(stack: Stack, key: str, *, has_deltas: bool) -> tuple[float, float]:
    """Follow a chat at one replica and cancel it at the other; the seconds it took, and when it was sent (Unix)."""
    chat_id = await _post(stack, key)
    path = f"/v1/chats/{chat_id}/stream?format=json"
    async with http.request(stack.replicas[0].port, "GET", path, silence=_PATIENCE) as answer:
        parser, cancelling = Parser(), None
        sent = sent_at = 0.0
        async for piece in answer.pieces():
            names = [event.name for event in parser.feed(piece)]
            if cancelling is None and ("delta" if has_deltas else "queued") in names:
                sent, sent_at = time.monotonic(), time.time()
                cancelling = asyncio.create_task(_cancel(stack, chat_id))
            if "cancelled" in names:
                seen = time.monotonic() - sent
                break
        else:
            raise http.Broken("no cancelled")
        assert cancelling is not None
        await cancelling
    return seen, sent_at


async def _closed_after(stack: Stack, key: str, sent: float) -> float:
    """Seconds from the cancel until the simulator's connection was closed, by the same machine's clock."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            (request,) = await stack.upstream_requests(key)
            if request["closed_at"] is not None:
                return float(request["closed_at"]) / 1000 - sent
            await asyncio.sleep(_POLL)


async def _until_full(stack: Stack, chats: int) -> None:
    while await stack.redis.call("HLEN", "piropiro:running") < chats:  # noqa: ASYNC110  # only Redis knows
        await asyncio.sleep(_POLL)
