"""The clients: `python -m bench.compare.load` reads a load from standard input and writes what it measured.

It is a process of its own and does next to nothing while it measures: a reader notes when bytes came and keeps them;
they are taken apart afterwards. What it used of a core is among the figures.
"""

import asyncio
import gc
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop
from redis.asyncio import Redis

from bench.compare import prose
from bench.compare.loads import (
    LATE_MS,
    OWN,
    SOURCE,
    Burst,
    Followed,
    Idle,
    Load,
    Overload,
    Paced,
    Phase,
    RedisUse,
    Result,
    Resumed,
    Storm,
    Target,
    Typical,
    lateness,
)
from bench.compare.received import Answer, read, read_prose, refusal
from bench.compare.source import Script
from bench.report import percentile
from bench.slow_readers import private_bytes

SETTLE = 1.0
_PATIENCE = 5.0
_ALL_OPEN = 60.0
"""Seconds for streams that have come to be open, every one."""

_COMING = 50.0
_NS = 1_000_000_000
_TICKS = os.sysconf("SC_CLK_TCK")
_EVENT_SIZE = 512
_BODY_ENDS = b"0\r\n\r\n"


class Stream(asyncio.Protocol):
    """One reader: sends its request, keeps what comes and when."""

    def __init__(self, request: bytes) -> None:
        self.sent = 0
        self.reads: list[tuple[int, bytes]] = []
        self.ended = asyncio.Event()
        self.began = asyncio.Event()
        self._request = request
        self._has_begun = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none, but acts like one
        self.sent = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic_ns(), data))
        if not self._has_begun and b"data: " in data:
            self._has_begun = True
            self.began.set()
        if data.endswith(_BODY_ENDS) or (len(data) < len(_BODY_ENDS) and self.tail().endswith(_BODY_ENDS)):
            self.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.ended.set()
        self.began.set()

    @property
    def is_refused(self) -> bool:
        """Whether the answer is another one than a stream."""
        return bool(self.reads) and not self.reads[0][1].startswith(b"HTTP/1.1 200 ")

    def tail(self) -> bytes:
        """The last bytes that came, enough for an event; the network may have cut anywhere in them."""
        last = b""
        for _, data in reversed(self.reads):
            last = data[-_EVENT_SIZE:] + last
            if len(last) >= _EVENT_SIZE:
                break
        return last

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.close()


class Meter:
    """CPU seconds of processes, and of this one, between `start` and `stop`."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._before: dict[str, float] = {}
        self.began = self.ended = 0

    def start(self) -> None:
        self.began = time.monotonic_ns()
        self._before = self._now()

    def stop(self, result: Result) -> None:
        """Write the difference into the result."""
        self.ended = time.monotonic_ns()
        result.cpu = {name: seconds - self._before[name] for name, seconds in self._now().items()}
        result.seconds = (self.ended - self.began) / _NS

    def _now(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()} | {OWN: time.process_time()}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Clients:
    """Carries out loads on one target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ports = itertools.cycle(target.ports)
        self._loop = asyncio.get_running_loop()
        self._meter = Meter(target.pids)
        self._redis = Redis(port=target.redis_port) if target.redis_port is not None else None

    async def run(self, load: Load) -> Result:
        """Carry out whichever it is."""
        match load:
            case Paced():
                return await self._paced(load)
            case Burst():
                return await self._burst(load)
            case Followed():
                return await self._followed(load)
            case Resumed():
                return await self._resumed(load)
            case Idle():
                return await self._idle(load)
            case Typical():
                return await self._typical(load)
            case Storm():
                return await self._storm(load)
            case Overload():
                return await self._overload(load)

    async def _paced(self, load: Paced) -> Result:
        result = Result(streams=len(load.starts))
        scripts = [Script(deltas, load.pace) for _, deltas in load.starts]
        streams = [Stream(post(script)) for script in scripts]
        await self._info()  # connects
        began = self._loop.time()
        self._loop.call_at(began + load.window[0], self._meter.start)
        self._loop.call_at(began + load.window[1], self._meter.stop, result)
        watching = asyncio.gather(self._watch_redis(began, load.window, result), self._weigh(began, load, result))
        for (start, _), stream in zip(load.starts, streams, strict=True):
            self._loop.call_at(began + start, self._open, stream)
        ends = max(start + deltas / load.pace for start, deltas in load.starts)
        await asyncio.sleep(max(ends, load.window[1]))
        await self._until_ended(streams, _PATIENCE)
        await watching
        answers = self._take_apart(streams, scripts, result)
        self._judge(answers, load.pace, result)
        self._note_first(streams, answers, result)
        return result

    async def _burst(self, load: Burst) -> Result:
        result = Result(streams=load.chats)
        script = Script(load.deltas)
        streams = [Stream(post(script)) for _ in range(load.chats)]
        self._meter.start()
        for stream in streams:
            self._open(stream)
        await self._until_ended(streams, load.patience)
        self._meter.stop(result)
        answers = self._take_apart(streams, [script] * load.chats, result)
        moments = sorted(moment for answer in answers for moment in answer.arrived)
        self._note_first(streams, answers, result)
        result.delivered = len(moments)
        if moments:
            half = moments[len(moments) // 2]
            counts = [sum(moment <= half for moment in answer.arrived) for answer in answers]
            result.share = min(counts) / statistics.mean(counts)
            result.silence = max(
                (silence(stream.sent, answer.arrived) for stream, answer in zip(streams, answers, strict=True))
            )
            result.seconds = (moments[-1] - self._meter.began) / _NS
        return result

    async def _followed(self, load: Followed) -> Result:
        result = Result(streams=load.readers)
        script = Script(round((1 + load.readers / load.rate + SETTLE + load.seconds + 0.5) * load.pace), load.pace)
        chat = Stream(post(script))
        self._open(chat)
        await chat.began.wait()
        chat_id = read(chat.reads, script.deltas).chat_id
        readers = [Stream(get(chat_id)) for _ in range(load.readers)]
        await self._come(readers, load.rate)
        await asyncio.sleep(SETTLE)
        self._meter.start()
        await asyncio.sleep(load.seconds)
        self._meter.stop(result)
        await self._until_ended(readers, load.seconds + _PATIENCE)
        self._judge(self._take_apart(readers, [script] * load.readers, result), load.pace, result)
        chat.close()
        return result

    async def _resumed(self, load: Resumed) -> Result:
        result, script = Result(streams=1), Script(load.deltas)
        chat = Stream(post(script))
        self._open(chat)
        await self._until_ended([chat], 60.0)
        original = self._take_apart([chat], [script], result)[0]
        if not original.has_ended:
            return result
        middle = load.deltas // 2
        requests = {0: get(original.chat_id), middle: get(original.chat_id, original.ids[middle - 1])}
        for first, request in requests.items():
            figures, brought = [], []
            for _ in range(load.times):
                stream = Stream(request)
                self._open(stream)
                await self._until_ended([stream], 60.0)
                answer = self._take_apart([stream], [script], result, first)[0]
                if answer.arrived:
                    figures.append((answer.arrived[-1 if first == 0 else 0] - stream.sent) / 1e6)
                    brought.append(len(answer.arrived) / len(stream.reads))
            figure = statistics.median(figures) if figures else None
            if first == 0:
                result.replay, result.per_read = figure, statistics.median(brought) if brought else None
            else:
                result.middle = figure
        return result

    async def _idle(self, load: Idle) -> Result:
        result = Result(streams=load.steps[-1])
        warm = [Stream(post(Script(20))) for _ in range(20)]
        await self._come(warm, load.rate)
        await self._until_ended(warm, _PATIENCE)
        await asyncio.sleep(SETTLE)
        result.memory[0] = self._memory()
        streams: list[Stream] = []
        for step in load.steps:
            new = [Stream(post(Script(1, hold=3600))) for _ in range(step - len(streams))]
            await self._come(new, load.rate)
            await _within(_ALL_OPEN, [stream.began for stream in new])
            streams += new
            await asyncio.sleep(SETTLE)
            if all(stream.began.is_set() and not stream.ended.is_set() for stream in streams):
                result.memory[step] = self._memory()
                result.connections = await self._redis_connections()
            else:
                result.unfinished = sum(not stream.began.is_set() or stream.ended.is_set() for stream in streams)
                break
        for stream in streams:
            stream.close()
        return result

    def _open(self, stream: Stream) -> None:
        opening = self._loop.create_task(self._loop.create_connection(lambda: stream, "127.0.0.1", next(self._ports)))
        opening.add_done_callback(lambda task: stream.connection_lost(None) if task.exception() else None)

    async def _come(self, streams: Sequence[Stream], rate: float) -> None:
        began = self._loop.time()
        for number, stream in enumerate(streams, 1):
            self._open(stream)
            await asyncio.sleep(began + number / rate - self._loop.time())

    async def _until_ended(self, streams: Sequence[Stream], patience: float) -> None:
        """Wait for the streams' ends, but not for ever; leave those that have none."""
        await _within(patience, [stream.ended for stream in streams])
        for stream in streams:
            stream.close()

    def _take_apart(
        self, streams: Sequence[Stream], scripts: Sequence[Script], result: Result, first: int = 0
    ) -> list[Answer]:
        answers = [read(stream.reads, script.deltas, first) for stream, script in zip(streams, scripts, strict=True)]
        result.faults += [answer.fault for answer in answers if answer.fault]
        result.unfinished += sum(not answer.has_ended for answer in answers)
        return answers

    def _judge(self, answers: Sequence[Answer], pace: int, result: Result) -> None:
        """Find the latencies of what was written in the window, and how many deltas came meanwhile."""
        begin, end = self._meter.began, self._meter.ended
        latencies = [answer.latencies(begin, end) for answer in answers]
        ordered = sorted(latency for own in latencies for latency in own)
        result.p50, result.p99 = percentile(ordered, 50), percentile(ordered, 99)
        result.delivered = sum(begin <= moment < end for answer in answers for moment in answer.arrived)
        expected = pace * result.seconds
        shares = (
            sum(latency <= LATE_MS for latency in own) / (len(own) if answer.has_ended else max(expected, len(own)))
            for own, answer in zip(latencies, answers, strict=True)
            if own or not answer.has_ended
        )
        result.on_time = min(shares, default=None)
        late = sorted(
            late
            for answer in answers
            for late, moment in zip(lateness(answer.sent, pace), answer.sent, strict=True)
            if begin <= moment < end
        )
        result.lag = percentile(late, 99)

    def _note_first(self, streams: Sequence[Stream], answers: Sequence[Answer], result: Result) -> None:
        """Find how long those that were opened while the meter ran waited for their first delta."""
        started = sorted(
            (answer.arrived[0] - stream.sent) / 1e6
            for stream, answer in zip(streams, answers, strict=True)
            if answer.arrived and self._meter.began <= stream.sent < self._meter.ended
        )
        result.first_p50, result.first_p95 = percentile(started, 50), percentile(started, 95)

    def _memory(self) -> dict[str, int]:
        return {name: private_bytes(pid) for name, pid in self._target.pids.items() if name != SOURCE}

    async def _redis_connections(self) -> int | None:
        info = await self._info()
        return info["connected_clients"] - 1 if info else None

    async def _info(self) -> dict[str, Any]:
        """What Redis says of itself; nothing if there is none."""
        return dict(await self._redis.info("all")) if self._redis is not None else {}

    async def _watch_redis(self, began: float, window: tuple[float, float], result: Result) -> None:
        """Ask Redis at both ends of the window."""
        if self._redis is None:
            return
        await asyncio.sleep(began + window[0] - self._loop.time())
        before = await self._info()
        await asyncio.sleep(began + window[1] - self._loop.time())
        result.redis = redis_use(before, await self._info())

    async def _weigh(self, began: float, load: Paced, result: Result) -> None:
        """Take the servers' memory as soon as the window is over, so that it disturbs nobody in it."""
        await asyncio.sleep(began + load.window[1] + SETTLE / 4 - self._loop.time())
        result.memory[len(load.starts)] = self._memory()

    async def _typical(self, load: Typical) -> Result:
        assert self._redis is not None, "only a system with a Redis keeps anything there"
        result = Result(streams=load.chats)
        scripts = [Script(load.deltas, load.pace, load.hold, which) for which in range(1, load.chats + 1)]
        streams = [Stream(post(script)) for script in scripts]
        known, before = {key async for key in self._redis.scan_iter(count=1000)}, await self._info()
        self._meter.start()
        for stream in streams:
            self._open(stream)
        await asyncio.sleep(load.deltas / load.pace + load.hold / 2)
        total = load.chats * load.deltas
        result.kept["running"] = await self._kept(known, before, total)
        await self._until_ended(streams, load.hold + _PATIENCE)
        self._meter.stop(result)
        result.redis = redis_use(before, await self._info())
        result.delivered = total
        ended = self._loop.time()
        for wait in load.waits:
            await asyncio.sleep(ended + wait - self._loop.time())
            result.kept[f"{wait:g} s after the end"] = await self._kept(known, before, total)
        for stream, script in zip(streams, scripts, strict=True):
            answer = read_prose(stream.reads, b"".join(prose.answer(script.prose, script.deltas)))
            result.faults += [answer.fault] if answer.fault else []
            result.unfinished += not answer.has_ended
        return result

    async def _kept(self, known: set[bytes], before: dict[str, Any], deltas: int) -> dict[str, float]:
        """Bytes in Redis per delta: of the new keys by their last word, of all, and the growth of the server."""
        assert self._redis is not None
        sizes: dict[str, float] = {}
        for key in {key async for key in self._redis.scan_iter(count=1000)} - known:  # a scan may give a key twice
            size = await self._redis.memory_usage(key, samples=0) or 0
            kind = key.rpartition(b":")[2].decode() if b"{" in key else "others"
            sizes[kind] = sizes.get(kind, 0.0) + size / deltas
        sizes["keys in all"] = sum(sizes.values())
        sizes["server's growth"] = ((await self._info())["used_memory"] - before["used_memory"]) / deltas
        return sizes

    async def _storm(self, load: Storm) -> Result:
        result = Result(streams=load.readers)
        script = Script(load.deltas, hold=3600)
        makers = [Stream(post(script)) for _ in range(load.chats)]
        for maker in makers:
            self._open(maker)
        await self._until_said(makers, load.deltas, load.patience)
        chat_ids = [read(maker.reads, load.deltas).chat_id for maker in makers]
        for maker in makers:
            maker.close()
        self._check_said(makers, load.deltas, result)
        if result.faults:
            return result
        live_script = Script(
            round(load.pace * (load.live / _COMING + SETTLE + load.seconds + load.patience)), load.pace
        )
        live = [Stream(post(live_script)) for _ in range(load.live)]
        await self._come(live, _COMING)
        await asyncio.sleep(SETTLE)
        moments = [time.monotonic_ns()]
        await asyncio.sleep(load.seconds)
        readers = [Stream(get(chat_ids[number % load.chats])) for number in range(load.readers)]
        moments.append(time.monotonic_ns())
        self._meter.start()
        for reader in readers:
            self._open(reader)
        await self._until_said(readers, load.deltas, load.patience / 2)
        self._meter.stop(result)
        moments.append(time.monotonic_ns())
        await asyncio.sleep(load.seconds)
        moments.append(time.monotonic_ns())
        for stream in (*live, *readers):
            stream.close()
        came = [answer.arrived[-1] for answer in self._check_said(readers, load.deltas, result) if answer.arrived]
        result.caught_up = (max(came) - moments[1]) / _NS if came else None
        answers = [read(stream.reads, live_script.deltas) for stream in live]
        result.faults += [answer.fault for answer in answers if answer.fault]
        for name, begin, end in zip(("before", "storm", "after"), moments, moments[1:], strict=False):
            result.phases[name] = phase(answers, begin, end)
        return result

    async def _until_said(self, streams: Sequence[Stream], deltas: int, patience: float) -> None:
        """Wait until the last delta has come on each of the streams, but not for ever."""
        last, left, until = b"data: %07d " % (deltas - 1), list(streams), self._loop.time() + patience
        while left and self._loop.time() < until:
            left = [stream for stream in left if not stream.is_refused and last not in stream.tail()]
            await asyncio.sleep(0.02)

    def _check_said(self, streams: Sequence[Stream], deltas: int, result: Result) -> list[Answer]:
        """Whether each of them, none of which has ended, had all of its deltas."""
        answers = [read(stream.reads, deltas) for stream in streams]
        result.faults += [answer.fault for answer in answers if answer.fault]
        missing = [deltas - len(answer.arrived) for answer in answers if len(answer.arrived) < deltas]
        if missing:
            result.faults.append(f"{len(missing)} of {len(streams)} readers lack up to {max(missing)} deltas")
        return answers

    async def _overload(self, load: Overload) -> Result:
        script = Script(load.deltas, load.pace)
        (calm, slow), (many, fast) = load.within, load.beyond
        streams = [Stream(post(script, "?format=json")) for _ in range(calm + many)]
        result = Result(streams=len(streams))
        life = load.deltas / load.pace
        begin = time.monotonic_ns() + int(life * _NS)
        await self._come(streams[:calm], slow)
        moments = [begin, time.monotonic_ns()]
        self._meter.start()
        await self._come(streams[calm:], fast)
        moments.append(time.monotonic_ns())
        await self._until_ended(streams, load.patience)
        self._meter.stop(result)
        moments.append(time.monotonic_ns())
        accepted = []
        for stream in streams:
            status, after = refusal(stream.reads)
            if status == 429:
                result.refused += 1
                result.retry_after += [after] if after is not None else []
            else:
                accepted.append(stream)
        answers = self._take_apart(accepted, [script] * len(accepted), result)
        result.positions = [answer.positions for answer in answers if answer.positions]
        if len(result.retry_after) < result.refused:
            result.faults.append(f"{result.refused - len(result.retry_after)} refusals without Retry-After")
        wrong = sum(any(b > a for a, b in itertools.pairwise(own)) for own in result.positions)
        if wrong:
            result.faults.append(f"{wrong} readers saw their place in the queue grow")
        for name, begin, end in zip(
            ("within capacity", "overload", "queue drains"), moments, moments[1:], strict=False
        ):
            result.phases[name] = phase(answers, begin, end)
        result.delivered = sum(len(answer.arrived) for answer in answers)
        return result


def phase(answers: Sequence[Answer], begin: int, end: int) -> Phase:
    """The latencies of what was written between two moments (ns)."""
    ordered = sorted(latency for answer in answers for latency in answer.latencies(begin, end))
    return Phase((end - begin) / _NS, len(ordered), percentile(ordered, 50), percentile(ordered, 99))


def silence(sent: int, arrived: Sequence[int]) -> float:
    """The longest wait for the next delta, in ms; from the request, if it was for the first."""
    return max((after - before for before, after in itertools.pairwise((sent, *arrived))), default=0) / 1e6


def redis_use(before: dict[str, Any], after: dict[str, Any]) -> RedisUse:
    """The difference between two answers to INFO."""
    calls = {
        name.removeprefix("cmdstat_"): after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
        for name in after
        if name.startswith("cmdstat_") and name != "cmdstat_info"
    }
    return RedisUse(
        received=after["total_net_input_bytes"] - before["total_net_input_bytes"],
        sent=after["total_net_output_bytes"] - before["total_net_output_bytes"],
        calls={name: number for name, number in calls.items() if number},
        connections=after["connected_clients"] - 1,
    )


async def _within(seconds: float, events: Sequence[asyncio.Event]) -> None:
    try:
        async with asyncio.timeout(seconds):
            for event in events:
                await event.wait()
    except TimeoutError:
        pass


def post(script: Script, query: str = "") -> bytes:
    """A request that creates a chat and streams it."""
    body = json.dumps({"messages": [{"role": "user", "content": script.message()}]}).encode()
    head = f"POST /v1/chat/stream{query} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length:"
    return f"{head} {len(body)}\r\n\r\n".encode() + body


def get(chat_id: str, after: str = "") -> bytes:
    """A request that reads a chat from its start, or after the event with that id."""
    cursor = f"Last-Event-ID: {after}\r\n" if after else ""
    return f"GET /v1/chats/{chat_id}/stream HTTP/1.1\r\nHost: bench\r\n{cursor}\r\n".encode()


async def _main() -> None:
    target, load = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[Target, Load])
    gc.disable()
    result = await Clients(target).run(load)
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
