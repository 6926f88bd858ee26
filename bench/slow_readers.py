"""Slow readers: what 500 clients that stop reading cost the replica in memory, and its other readers in latency.

Chats run through the real product; the upstream and all clients are the bench itself. The upstream puts the moment of
its write into every delta, so that a delta's latency is the whole way: upstream, worker, Redis, replica, reader. The
healthy readers' bytes are compared with what was sent, to the last one.

A client that stops reading has asked for small segments, as on a network: loopback's would make the kernel take 4 MB
for each before the replica notices anything.
"""

import asyncio
import contextlib
import gc
import os
import platform
import re
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import Redis

from bench import processes
from bench.client import Client
from bench.machine import Load
from bench.report import percentile
from bench.wire import chunk, read_message

RESULTS = Path(__file__).parent / "results" / "slow-readers.md"
HEALTHY, PACE = 40, 20.0
KIB = 1024
BOUND = 192 * KIB
"""The most that a stopped reader may cost the replica, besides the live edge of a chat that only it reads.

It is one write, which is 64 KiB and a frame (of 98 KiB here at most), and 30 KiB for the connection and its tasks.
"""

EDGE = 160 * KIB
"""The most that such a live edge may cost: 128 entries of 600 bytes, 32 KiB of text, and as much again for frames."""

COMING = 50.0
"""Stopped readers that come in a second."""

_SEGMENT, _RECEIVE_BUFFER = 1400, 2048
_SAMPLE = 0.25
_SETTLE = 10.0
_PATIENCE = 60.0
_FEW = 8
_STARTED = re.compile(r"Started server process \[(\d+)\]")
_DELTA = re.compile(rb"data: (\d+) (\d+) x*\n\n")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNK = (
    b'data: {"id":"bench","object":"chat.completion.chunk","created":0,"model":"bench",'
    b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
)


@dataclass(slots=True)
class Script:
    """What the upstream says: `history` deltas of `size` bytes at once, then one of a few bytes at each beat.

    It beats `pace` times a second until it is told to end; without a pace it ends by itself.
    """

    history: int = 0
    size: int = 0
    pace: float = 0.0
    sent: list[bytes] = field(default_factory=list)
    has_said_history: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def delta(self, size: int = 0) -> bytes:
        """The next delta: its number, its moment, and as many further bytes."""
        text = b"%d %d %b" % (len(self.sent), time.monotonic_ns(), b"x" * size)
        self.sent.append(text)
        return chunk(_CHUNK % (b'{"content":"%b"}' % text, b"null"))


class Upstream:
    """An OpenAI-compatible server that answers each chat by the script named in its last message."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self._handlers: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        """Serve for as long as the context is open."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1024)
        try:
            yield
        finally:
            server.close()
            for handler in self._handlers:
                handler.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while True:
                request = await read_message(reader)
                name = re.findall(rb'"content": ?"(\w+)"', request.body)[-1].decode()
                await self._answer(self.scripts[name], writer)
        except (EOFError, OSError, asyncio.CancelledError):
            pass  # the worker is gone, or `serving` ends
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _answer(self, script: Script, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD)
        for _ in range(script.history):
            writer.write(script.delta(script.size))
            await writer.drain()
        script.has_said_history.set()
        due = time.monotonic()
        while script.pace and not script.ending.is_set():
            due += 1 / script.pace
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(script.ending.wait(), due - time.monotonic())
                break
            writer.write(script.delta())
        writer.write(chunk(_CHUNK % (b"{}", b'"stop"') + b"data: [DONE]\n\n") + chunk(b""))
        await writer.drain()


class Reader(asyncio.Protocol):
    """A healthy reader of one chat: keeps every byte, and every delta's latency (ms) with its moment of arrival."""

    def __init__(self, chat_id: str) -> None:
        self.chat_id = chat_id
        self.latencies: list[tuple[float, float]] = []
        self.ended = asyncio.Event()
        self._received: list[bytes] = []
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(_request(self.chat_id))  # type: ignore[attr-defined]  # uvloop's transport has it

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._received.append(data)
        self._rest += data
        end = 0
        for found in _DELTA.finditer(self._rest):
            self.latencies.append((now, 1000 * now - int(found[2]) / 1e6))
            end = found.end()
        self._rest = self._rest[end:]
        if data.endswith(b"\r\n0\r\n\r\n"):
            self.ended.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.ended.set()

    def body(self) -> bytes:
        """What came, without HTTP's framing."""
        raw = b"".join(self._received).partition(b"\r\n\r\n")[2]
        body, at = bytearray(), 0
        while (line := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line], 16)
            body += raw[line + 2 : line + 2 + size]
            at = line + 2 + size + 2
        return bytes(body)


@dataclass(frozen=True, slots=True)
class Flavour:
    """What the stopped readers read: `chats` chats by the same script, `readers` of them in all."""

    title: str
    chats: int
    readers: int
    history: int
    size: int
    pace: float


@dataclass(frozen=True, slots=True)
class Row:
    """One flavour in one round. Memory in bytes; latencies in ms: before the stopped readers, while they come, later.

    `floor` is the replica's memory before the first reader of the run had stopped.
    """

    round: int
    flavour: Flavour
    floor: int
    before: int
    peak: int
    after: int
    kernel: int
    quiet: list[float]
    coming: list[float]
    standing: list[float]

    @property
    def per_reader(self) -> float:
        """Bytes of the replica for each reader that stopped; what the process keeps of earlier peaks is no gain."""
        return (self.peak - self.floor) / self.flavour.readers

    @property
    def is_bounded(self) -> bool:
        """Whether the bound was kept."""
        edge = EDGE * self.flavour.chats / self.flavour.readers if self.flavour.chats > 1 else 0
        return self.per_reader <= BOUND + edge

    def cells(self) -> list[str]:
        """One for each of the columns."""
        quiet, coming, standing = (
            [percentile(latencies, percent) or 0.0 for percent in (50, 99)]
            for latencies in (self.quiet, self.coming, self.standing)
        )
        ratios = [after / before if before else 0.0 for before, after in zip(quiet, standing, strict=True)]
        return [
            str(self.round),
            self.flavour.title,
            *(f"{size / KIB / KIB:.0f}" for size in (self.before, self.peak, self.after)),
            f"{self.per_reader / KIB:.0f}",
            f"{self.kernel / self.flavour.readers / KIB:.0f}",
            *(f"{p50:.1f} / {p99:.1f}" for p50, p99 in (quiet, coming, standing)),
            " / ".join(f"{ratio:.2f}" for ratio in ratios),
        ]


COLUMNS = (
    "round",
    "500 stopped readers",
    "before",
    "peak",
    "after",
    "KiB each",
    "kernel, KiB each",
    "without them",
    "while they come",
    "while they stand",
    "ratio",
)


def flavours(readers: int) -> list[Flavour]:
    """One chat for all that goes on; one each that goes on; a finished one of 4 MB."""
    return [
        Flavour("all on one running chat", 1, readers, 300, 500, PACE),
        Flavour("each on a running chat of its own", readers, readers, 300, 500, 1.0),
        Flavour("all resume a finished chat of 4 MB", 1, readers, 40, 100_000, 0.0),
    ]


async def run(*, quick: bool, seed: int) -> bool:  # noqa: ARG001 - there is no chance in it
    """Measure, print, and unless `quick` write the results; whether the bound was kept and no byte was amiss."""
    load = Load()
    readers, rounds, seconds = (100, 2, 3.0) if quick else (500, 3, 6.0)
    rows, faults = list[Row](), list[str]()
    async with _bench() as bench:
        for number in range(1, rounds + 1):
            async with bench.healthy_readers(faults):
                for flavour in flavours(readers):
                    print(f"round {number}: {flavour.title} …", flush=True)
                    rows.append(await bench.measure(number, flavour, seconds))
                    print(" | ".join(rows[-1].cells()), flush=True)
        server = bench.server
    conditions = (
        f"{os.cpu_count()} cores, shared by everything: Redis, one replica, one worker and the bench, which is client"
        f" and upstream; {platform.system()}, Python {platform.python_version()}, {server}. {load.sentence()}"
    )
    faults += [f"round {row.round}: {row.flavour.title}: the bound was broken" for row in rows if not row.is_bounded]
    text = report(rows, faults, conditions, readers)
    print(f"\n{text}")
    if not quick:
        RESULTS.write_text(text, encoding="utf-8")
    return not faults


def report(rows: Sequence[Row], faults: Sequence[str], conditions: str, readers: int) -> str:
    """The results as Markdown."""
    head = [column.replace("500", str(readers)) for column in COLUMNS]
    lines = [head, ["--:", "---", *["--:"] * (len(head) - 2)], *(row.cells() for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    verdict = "Every byte of theirs was complete and in order, and the bound was kept."
    if faults:
        verdict = "**Went wrong:**\n\n" + "\n".join(f"- {fault}" for fault in faults)
    return f"""# Slow readers

{conditions}

{table}

**Healthy readers:** {HEALTHY} chats at {PACE:g} deltas/s with one reader each, all the time. {verdict}

{_LEGEND}"""


_LEGEND = f"""- A **stopped reader** asks for a stream and never reads a byte of it. It can receive
  {_RECEIVE_BUFFER} bytes, in segments of {_SEGMENT} as on a network: loopback's would make the kernel hold 4 MB each.
- **before, peak, after**: private memory of the replica (`Private_Dirty`) in MiB: with the chats running but before the
  stopped readers came, the most while they stood, and after they closed.
- **KiB each**: the peak less what the replica had before the run's first stopped reader, by reader. The bound is
  {BOUND // KIB} KiB, and {EDGE // KIB} KiB more where the reader is its chat's only one.
- **kernel, KiB each**: growth of the machine's TCP memory, by reader.
- **without them, while they come, while they stand**: p50 / p99 in ms of the healthy readers' latency, from the
  upstream's write of a delta to the reader's receipt, with the same chats running each time. {COMING:g} of the stopped
  readers come a second, each with a replay of what its chat has said so far.
- **ratio**: of latency while they stand to latency without them.
"""


@contextlib.asynccontextmanager
async def _bench() -> AsyncIterator["Bench"]:
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="piropiro-bench-")))
        redis_port, api_port, upstream_port = (processes.free_port() for _ in range(3))
        command, title = processes.redis_server(redis_port, directory)
        environment = {
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream_port}/v1",
            "OPENAI_API_KEY": "bench",
            "PIROPIRO_DRAIN": "1",
            "PIROPIRO_MAX_JOBS": "1000",
        }

        async def has_redis() -> bool:
            return await processes.is_listening(redis_port)

        await stack.enter_async_context(
            processes.running("the Redis server", command, {}, directory / "redis.log", has_redis)
        )
        client, upstream = Client(api_port), Upstream()
        await stack.enter_async_context(upstream.serving(upstream_port))
        log = directory / "api.log"
        await stack.enter_async_context(
            processes.running("the API", processes.api(api_port), environment, log, client.is_up)
        )
        stack.push_async_callback(client.close)
        redis = await stack.enter_async_context(Redis(port=redis_port))

        async def has_worker() -> bool:
            return bool(await redis.zcard("piropiro:workers"))

        await stack.enter_async_context(
            processes.running("the worker", processes.worker(), environment, directory / "worker.log", has_worker)
        )
        found = _STARTED.search(log.read_text())
        assert found is not None, "uvicorn says its process id"
        yield Bench(client, upstream, api_port, int(found[1]), title)


class Bench:
    """Measures one flavour after the other on one replica."""

    def __init__(self, client: Client, upstream: Upstream, port: int, pid: int, server: str) -> None:
        self.server = server
        self._client = client
        self._upstream = upstream
        self._port = port
        self._pid = pid
        self._floor = 0
        self._readers: list[Reader] = []
        self._few = asyncio.Semaphore(_FEW)

    @contextlib.asynccontextmanager
    async def healthy_readers(self, faults: list[str]) -> AsyncIterator[None]:
        """Read as healthy readers do while the context is open; then look for what is amiss in what they got."""
        loop = asyncio.get_running_loop()
        chats = await self._post([Script(pace=PACE) for _ in range(HEALTHY)])
        self._readers = [Reader(chat_id) for chat_id in chats]
        for reader in self._readers:
            await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", self._port)  # type: ignore[misc]
            await asyncio.sleep(1 / PACE / HEALTHY)
        gc.collect()
        gc.freeze()
        await asyncio.sleep(_SETTLE)
        yield
        for script in chats.values():
            script.ending.set()
        for reader in self._readers:
            async with asyncio.timeout(_PATIENCE):
                await reader.ended.wait()
            if reader.body() != _stream(reader.chat_id, chats[reader.chat_id].sent):
                faults.append(f"a healthy reader of {reader.chat_id} did not get its {len(reader.latencies)} deltas")

    async def measure(self, number: int, flavour: Flavour, seconds: float) -> Row:
        """Run the flavour's chats: first without readers, then with those that stop, then without them again."""
        chats = await self._post([Script(flavour.history, flavour.size, flavour.pace) for _ in range(flavour.chats)])
        for script in chats.values():
            await script.has_said_history.wait()
        try:
            await asyncio.sleep(seconds / 4)
            quiet = await self._latencies(seconds)
            before, kernel = private_bytes(self._pid), kernel_bytes()
            self._floor = self._floor or before
            peaks, pages, stopped = [before], [kernel], list[socket.socket]()
            sampling = asyncio.create_task(self._sample(peaks, pages))
            try:
                began = time.monotonic()
                for reader in range(flavour.readers):
                    stopped.append(_stop_reading(self._port, list(chats)[reader % len(chats)]))
                    await asyncio.sleep(began + (reader + 1) / COMING - time.monotonic())
                coming = self._since(began)
                standing = await self._latencies(seconds)
            finally:
                sampling.cancel()
                for client in stopped:
                    client.close()
        finally:
            for script in chats.values():
                script.ending.set()
        await asyncio.sleep(seconds / 3)
        after = private_bytes(self._pid)
        kernel = max(pages) - kernel
        return Row(number, flavour, self._floor, before, max(peaks), after, kernel, quiet, coming, standing)

    async def _post(self, scripts: Sequence[Script]) -> dict[str, Script]:
        """Create a chat for each script; the scripts by chat id."""

        async def post(script: Script) -> tuple[str, Script]:
            label = f"script{len(self._upstream.scripts)}"
            self._upstream.scripts[label] = script
            async with self._few:
                return (await self._client.post(label)).chat_id, script

        return dict(await asyncio.gather(*map(post, scripts)))

    async def _latencies(self, seconds: float) -> list[float]:
        """The healthy readers' latencies in the time to come, sorted."""
        began = time.monotonic()
        await asyncio.sleep(seconds)
        return self._since(began)

    def _since(self, began: float) -> list[float]:
        return sorted(ms for reader in self._readers for moment, ms in reader.latencies if moment >= began)

    async def _sample(self, memory: list[int], kernel: list[int]) -> None:
        while True:
            await asyncio.sleep(_SAMPLE)
            memory.append(private_bytes(self._pid))
            kernel.append(kernel_bytes())


def _stop_reading(port: int, chat_id: str) -> socket.socket:
    """A client that asks for a chat's stream and never reads it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    client.connect(("127.0.0.1", port))
    client.sendall(_request(chat_id))
    return client


def _request(chat_id: str) -> bytes:
    return f"GET /v1/chats/{chat_id}/stream HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def _stream(chat_id: str, deltas: Sequence[bytes]) -> bytes:
    """What a reader of the whole chat must have got."""
    events = [b"id: %b:1-%d\ndata: %b\n\n" % (chat_id.encode(), seq, text) for seq, text in enumerate(deltas, 1)]
    end = f"event: done\nid: {chat_id}:18446744073709551615-18446744073709551615\ndata: [DONE]\n\n"
    return b"".join(events) + end.encode()


def private_bytes(pid: int) -> int:
    """Memory that only this process has, and has written to."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) * KIB for kib in re.findall(r"^Private_Dirty: +(\d+) kB", rollup, re.MULTILINE))


def kernel_bytes() -> int:
    """What all TCP connections of this machine hold in the kernel."""
    found = re.search(r"^TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * os.sysconf("SC_PAGE_SIZE")
