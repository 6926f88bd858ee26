"""The clients: `python -m bench.compare.load` reads a load from standard input and writes what it measured.

It is a process of its own and does next to nothing while it measures: a reader notes when bytes came and keeps them;
they are taken apart afterwards. What it used of a core is among the figures.
"""

import asyncio
import gc
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from bench.compare.received import Answer, read
from bench.compare.source import Script
from bench.report import percentile
from bench.slow_readers import private_bytes

LATE_MS = 100.0
ON_TIME = 0.95
"""A level of load is held if each stream gets that share of its deltas within `LATE_MS`."""

OWN, SOURCE = "load generator", "upstream"
"""The names of the bench's own processes among the figures."""

SETTLE = 1.0
_PATIENCE = 5.0
_NS = 1_000_000_000
_TICKS = os.sysconf("SC_CLK_TCK")
_BODY_ENDS = b"0\r\n\r\n"


class Target(msgspec.Struct, frozen=True):
    """The system under test: its port, the process ids of its servers by name, and its Redis, if it has one."""

    port: int
    pids: dict[str, int]
    redis_port: int | None = None


class Paced(msgspec.Struct, tag=True, frozen=True):
    """Chats by the moment of their start, each with its number of deltas; figures are of the window (s)."""

    starts: list[tuple[float, int]]
    pace: int
    window: tuple[float, float]


class Burst(msgspec.Struct, tag=True, frozen=True):
    """So many chats at the same time, as fast as they go."""

    chats: int
    deltas: int
    patience: float


class Followed(msgspec.Struct, tag=True, frozen=True):
    """One chat, and so many readers who come to it, `rate` a second; then a window of `seconds`."""

    readers: int
    rate: float
    pace: int
    seconds: float


class Resumed(msgspec.Struct, tag=True, frozen=True):
    """A finished chat, read again from the start and from its middle, so many times each."""

    deltas: int
    times: int


class Idle(msgspec.Struct, tag=True, frozen=True):
    """Streams that are open and silent, `rate` more a second; memory is taken at each of the steps."""

    steps: list[int]
    rate: float


Load = Paced | Burst | Followed | Resumed | Idle


class Result(msgspec.Struct):
    """What was measured; a figure that a load does not give stays None. Times in ms where the name does not say.

    `cpu`: seconds by process in the window. `on_time`: of the stream that had the fewest, the share of deltas that
    came within `LATE_MS`. `share`: when half of all deltas had come, those of the chat with the fewest, over the mean.
    `unfinished`: streams that had not ended in time. `memory`: private bytes by open streams and server.
    """

    streams: int = 0
    seconds: float = 0.0
    delivered: int = 0
    cpu: dict[str, float] = {}
    first_p50: float | None = None
    first_p95: float | None = None
    p50: float | None = None
    p99: float | None = None
    on_time: float | None = None
    share: float | None = None
    replay: float | None = None
    middle: float | None = None
    memory: dict[int, dict[str, int]] = {}
    connections: int | None = None
    unfinished: int = 0
    faults: list[str] = []

    @property
    def is_held(self) -> bool:
        """Whether every stream got enough of its deltas in time."""
        return not self.faults and not self.unfinished and self.on_time is not None and self.on_time >= ON_TIME

    def kib_per_stream(self, streams: int, *servers: str) -> float | None:
        """What each open stream costs those servers, or all of them."""
        if streams not in self.memory:
            return None
        before, after = self.memory[0], self.memory[streams]
        return sum(after[name] - before[name] for name in servers or after) / 1024 / streams

    @property
    def rate(self) -> float:
        """Deltas per second."""
        return self.delivered / self.seconds if self.seconds else 0.0

    @property
    def per_delta(self) -> float | None:
        """Microseconds of CPU that the servers used for each delta that arrived."""
        servers = sum(seconds for name, seconds in self.cpu.items() if name not in (OWN, SOURCE))
        return 1e6 * servers / self.delivered if self.delivered else None

    def cores(self, name: str) -> float:
        """What a process used, as a share of one core."""
        return self.cpu.get(name, 0.0) / self.seconds if self.seconds else 0.0


class Stream(asyncio.Protocol):
    """One reader: sends its request, keeps what comes and when."""

    def __init__(self, request: bytes) -> None:
        self.sent = 0
        self.reads: list[tuple[int, bytes]] = []
        self.ended = asyncio.Event()
        self.began = asyncio.Event()
        self._request = request
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none, but acts like one
        self.sent = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic_ns(), data))
        if b"data: " in data and not self.began.is_set():
            self.began.set()
        if data.endswith(_BODY_ENDS):
            self.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.ended.set()
        self.began.set()

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
        self._loop = asyncio.get_running_loop()
        self._meter = Meter(target.pids)

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

    async def _paced(self, load: Paced) -> Result:
        result = Result(streams=len(load.starts))
        scripts = [Script(deltas, load.pace) for _, deltas in load.starts]
        streams = [Stream(post(script)) for script in scripts]
        began = self._loop.time()
        self._loop.call_at(began + load.window[0], self._meter.start)
        self._loop.call_at(began + load.window[1], self._meter.stop, result)
        for (start, _), stream in zip(load.starts, streams, strict=True):
            self._loop.call_at(began + start, self._open, stream)
        ends = max(start + deltas / load.pace for start, deltas in load.starts)
        await asyncio.sleep(max(ends, load.window[1]))
        await self._until_ended(streams, _PATIENCE)
        answers = self._take_apart(streams, scripts, result)
        self._judge(answers, load.pace, result)
        started = sorted(
            (answer.arrived[0] - stream.sent) / 1e6
            for stream, answer in zip(streams, answers, strict=True)
            if answer.arrived
        )
        result.first_p50, result.first_p95 = percentile(started, 50), percentile(started, 95)
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
        result.delivered = len(moments)
        if moments:
            half = moments[len(moments) // 2]
            counts = [sum(moment <= half for moment in answer.arrived) for answer in answers]
            result.share = min(counts) / statistics.mean(counts)
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
            figures = []
            for _ in range(load.times):
                stream = Stream(request)
                self._open(stream)
                await self._until_ended([stream], 60.0)
                answer = self._take_apart([stream], [script], result, first)[0]
                if answer.arrived:
                    figures.append((answer.arrived[-1 if first == 0 else 0] - stream.sent) / 1e6)
            figure = statistics.median(figures) if figures else None
            result.replay, result.middle = (figure, result.middle) if first == 0 else (result.replay, figure)
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
            await _within(20.0, [stream.began for stream in new])
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
        opening = self._loop.create_task(self._loop.create_connection(lambda: stream, "127.0.0.1", self._target.port))
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

    def _memory(self) -> dict[str, int]:
        return {name: private_bytes(pid) for name, pid in self._target.pids.items() if name != SOURCE}

    async def _redis_connections(self) -> int | None:
        if self._target.redis_port is None:
            return None
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target.redis_port)
        writer.write(b"INFO clients\r\n")
        found = re.search(rb"connected_clients:(\d+)", await reader.read(4096))
        writer.close()
        return int(found[1]) - 1 if found else None


async def _within(seconds: float, events: Sequence[asyncio.Event]) -> None:
    try:
        async with asyncio.timeout(seconds):
            for event in events:
                await event.wait()
    except TimeoutError:
        pass


def post(script: Script) -> bytes:
    """A request that creates a chat and streams it."""
    body = json.dumps({"messages": [{"role": "user", "content": script.message()}]}).encode()
    head = "POST /v1/chat/stream HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length:"
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
