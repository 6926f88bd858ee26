"""How soon a replica says 503: a POST twice a second, beside the proxies, whatever happens to Redis."""

import asyncio
import json
import math
import time

from faults import http
from faults.settings import UNAVAILABLE_ALLOWANCE, UNAVAILABLE_LIMIT
from faults.stack import Replica, Stack
from faults.tally import Tally

_INTERVAL = 0.5
_HANG = 10.0
_NONE = -1


async def probe(stack: Stack, tally: Tally) -> None:
    """Measure every replica; ends only by cancellation."""
    async with asyncio.TaskGroup() as group:
        for replica in stack.replicas:
            group.create_task(_probe_one(replica, tally))


async def _probe_one(replica: Replica, tally: Tally) -> None:
    script = {"key": "probe", "deltas": [], "ttft": 0}
    body = json.dumps({"messages": [{"role": "user", "content": "probe"}], "simulator": script}).encode()
    headers = {"Idempotency-Key": "probe"}
    while True:
        began, sent, pid, status = time.time(), time.monotonic(), replica.place.pid, 0
        try:
            async with http.request(
                replica.port, "POST", "/v1/chats", headers=headers, body=body, silence=_HANG
            ) as answer:
                status = answer.status
                await answer.json()
        except TimeoutError:
            status = _NONE
        except http.FAILURES:
            pass
        waited = time.monotonic() - sent
        # A replica that was paused or ended meanwhile could not answer.
        if status and not replica.place.was_paused_since(sent) and replica.place.pid == pid:
            if status in (503, _NONE):
                tally.unavailable.append(waited if status == 503 else math.inf)
            if waited > UNAVAILABLE_LIMIT + UNAVAILABLE_ALLOWANCE:
                what = f"answered {status}" if status != _NONE else "not answered"
                tally.late.append(f"{replica.place.name} at {began:.3f}: {what} after {waited:.2f} s")
        await asyncio.sleep(_INTERVAL)
