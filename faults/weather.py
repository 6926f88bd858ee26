"""Carries out a schedule: does to processes and connections what it says, when it says so."""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence

from faults.evidence import Span
from faults.processes import Place
from faults.proxy import Proxy
from faults.schedule import LINKS, Act, Fault
from faults.settings import DRAIN
from faults.stack import Stack, Worker, log_key
from faults.tally import Tally

_END_PATIENCE = DRAIN + 15.0
_CUT_WITHIN = 4000
_RECOVERY = 3.0
"""Seconds that connections, and the processes that just came back, take to be as before."""

_LOOK = 0.02
_BEHIND_REDIS = ("worker", "simulator")


class Weather:
    """The faults of one campaign. `history` is what was done, with the moment (Unix time), for those who debug."""

    def __init__(self, stack: Stack, tally: Tally) -> None:
        self.history: list[tuple[float, str]] = []
        self._disturbed: list[Span] = []
        self._disturbing: dict[Fault, float] = {}
        self._stack = stack
        self._tally = tally
        self._places = {place.name: place for place in stack.places}
        self._watchers: set[asyncio.Task[None]] = set()

    async def run(self, schedule: Sequence[Fault]) -> None:
        """Let every fault happen at its moment; return when the last is over and everything runs again.

        The watching of takeovers goes on until `close`.
        """
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                await asyncio.sleep(began + fault.at - time.monotonic())
                self.history.append((time.time(), str(fault)))
                self._tally.faults[fault.kind] += 1
                group.create_task(self._happen(fault))

    async def close(self) -> None:
        """Watch no takeover any more."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def disturbed(self) -> list[Span]:
        """When something was amiss between readers and Redis, or is until further notice."""
        return [*self._disturbed, *((began, math.inf) for began in self._disturbing.values())]

    async def _happen(self, fault: Fault) -> None:
        if not fault.target.startswith(_BEHIND_REDIS):
            self._disturbing[fault] = time.time()
        if fault.target in LINKS:
            await self._break(self._stack.proxies[fault.target], fault)
        else:
            await self._hit(self._places[fault.target], fault)
        if fault in self._disturbing:
            self._disturbed.append((self._disturbing.pop(fault), time.time() + _RECOVERY))

    async def _break(self, proxy: Proxy, fault: Fault) -> None:
        match fault.act:
            case Act.CUT:
                proxy.cut(fault.share, _CUT_WITHIN)
            case Act.REFUSE:
                proxy.refuse()
            case Act.DELAY:
                proxy.delay = fault.share
            case Act.SILENCE:
                proxy.is_silent = True
        await asyncio.sleep(fault.seconds)
        proxy.cut_fused()
        await proxy.clear()

    async def _hit(self, place: Place, fault: Fault) -> None:
        worker = next((worker for worker in self._stack.workers if worker.place is place), None)
        async with place.turn:
            match fault.act:
                case Act.PAUSE:
                    await place.pause(fault.seconds)
                    return
                case Act.KILL:
                    await (self._kill_worker(worker) if worker is not None else place.kill())
                    await asyncio.sleep(fault.seconds)
                case Act.STOP:
                    await self._stop(place)
            await place.start()
        if worker is not None:
            await self._stack.identify(worker)

    async def _stop(self, place: Place) -> None:
        if not await place.stop(_END_PATIENCE):
            self._tally.unstopped.append(place.name)
            self.history.append((time.time(), f"{place.name} did not end: {place.last_lines()}"))

    async def _kill_worker(self, worker: Worker) -> None:
        """SIGKILL, and watch when each of its chats goes on elsewhere."""
        chats = dict[str, int]()
        with contextlib.suppress(TimeoutError):  # Redis may be away
            async with asyncio.timeout(0.5):
                chats = await self._stack.chats_of(worker)
        await worker.place.kill()
        if chats:
            watching = watch_takeovers(self._stack, chats, time.monotonic(), self._tally.takeovers)
            watcher = asyncio.create_task(watching)
            self._watchers.add(watcher)
            watcher.add_done_callback(self._watchers.discard)


async def watch_takeovers(stack: Stack, chats: dict[str, int], killed: float, times: list[float]) -> None:
    """Add to `times` the seconds from `killed` until each of `chats` (id: attempt) got its next attempt.

    A chat that ends instead does not count. Returns when nothing more can come.
    """
    left = dict(chats)
    while left:
        rows = await stack.redis.insist(
            *(("XRANGE", log_key(chat), f"{attempt + 1}-0", "+", "COUNT", 1) for chat, attempt in left.items())
        )
        now = time.monotonic()
        for (chat, attempt), found in zip(list(left.items()), rows, strict=True):
            if found:
                if found[0][0] == b"%d-0" % (attempt + 1):
                    times.append(now - killed)
                del left[chat]
        await asyncio.sleep(_LOOK)
