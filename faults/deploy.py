"""What a deploy costs: all processes are replaced, one by one behind HAProxy, while clients read; some are killed."""

import asyncio
import copy
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from faults import http
from faults.checker import Column, Finding, check
from faults.clients import World
from faults.crowd import Crowd, Result, answers, restarts, running
from faults.evidence import Evidence, to_json
from faults.processes import ROOT, Place, free_port
from faults.report import counts, latencies, table
from faults.stack import Stack, StartFailed, running_stack
from faults.sweep import digest, sweep
from faults.tally import Tally

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
CHATS = 200
APIS, WORKERS = 3, 3
LINGER = 3.0
DRAIN = 30.0
"""Longer than any of the crowd's chats, so that a worker told to stop ends what it runs."""

API_GRACE = LINGER + 7.0
"""Within which a replica has to end: five seconds beyond are for requests, the rest for a busy machine."""

_WORKER_GRACE = 7.0
_KILLS = 2
_TIDY = 20.0
_PATIENCE = 300.0
_CHECKS = 3.0
"""Seconds after which HAProxy knows of a replica that it is back."""

_POLL = 0.05
_API_EXIT, _WORKER_EXIT = "exit of an API replica told to stop", "exit of a worker told to stop"


@dataclass
class Deploy:
    """What came of it."""

    tally: Tally = field(default_factory=Tally)
    findings: list[Finding] = field(default_factory=list)
    checked: dict[str, bytes] = field(default_factory=dict)
    keyed: dict[str, str] = field(default_factory=dict)
    exits: dict[str, list[float]] = field(default_factory=lambda: {_API_EXIT: [], _WORKER_EXIT: []})
    rolled: Tally = field(default_factory=Tally)
    """What was counted when everything had been replaced in order, before the kills."""

    most: int = 0
    seconds: float = 0.0

    def take(self, evidence: Evidence, run: str) -> list[Finding]:
        """Judge a chat that is over."""
        found = check(evidence)
        self.findings += found
        self.tally.restarts += restarts(evidence)
        if evidence.chat_id is not None:
            self.checked[evidence.chat_id] = digest(evidence.entries)
            self.keyed[f"{run}/{evidence.plan.label}"] = evidence.chat_id
        return found

    @property
    def is_good(self) -> bool:
        return not self.findings and not self.tally.restarts

    def table(self) -> str:
        tally = self.tally
        return table(
            [
                ("chats", f"{tally.chats} in {self.seconds:.0f} s, up to {self.most} at once"),
                ("readers", f"{tally.readers}"),
                ("resumes", f"{tally.resumes}"),
                ("repeated POSTs", f"{tally.retried_posts}"),
                ("errors that clients saw, of a rolling restart", answers(self.rolled)),
                ("… and all, two replicas killed besides", answers(tally)),
                *((f"**{column}**", f"**{number}**") for column, number in counts(self.findings).items()),
                ("**restarts**", f"**{tally.restarts}**"),
                *((kind, latencies(times)) for kind, times in self.exits.items()),
            ]
        )


async def run(folder: Path, *, seats: int = CHATS, apis: int = APIS, workers: int = WORKERS) -> Result:
    """Deploy under load.

    Raises:
        StartFailed: something did not start, or there is no HAProxy.
    """
    settings = {"PIROPIRO_DRAIN": f"{DRAIN:g}", "PIROPIRO_LINGER": f"{LINGER:g}"}
    async with (
        running_stack(folder, Random(1), apis=apis, workers=workers, settings=settings, is_proxied=False) as stack,
        balancer(folder, [replica.port for replica in stack.replicas]) as port,
    ):
        for replica in stack.replicas:
            replica.proxied_port = port
        began = time.monotonic()
        deploy = Deploy()
        world = World(stack, deploy.tally, "deploy", 1, began + _PATIENCE)

        def take(evidence: Evidence) -> None:
            if found := deploy.take(evidence, world.run):
                content = {"findings": list(map(str, found)), "evidence": to_json(evidence)}
                (folder / f"{evidence.plan.label}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))

        crowd = Crowd(world, seats, take)
        async with crowd.reading(_count(stack, deploy)):
            await replace_all(stack, deploy)
        deploy.seconds = time.monotonic() - began
        found, deploy.tally.orphans = await sweep(stack, deploy.checked, deploy.keyed, _TIDY)
        deploy.findings += found
        crashes = [crash for place in stack.places for crash in place.crashes]
        deploy.findings += [Finding(Column.PROCESS, crash.partition(" ")[0], crash) for crash in crashes]
        deploy.findings += [Finding(Column.PROCESS, name, "too slow to end") for name in deploy.tally.unstopped]
    problems = [*map(str, deploy.findings[:50])]
    return Result("\n".join([deploy.table(), *problems]), deploy.is_good)


async def _count(stack: Stack, deploy: Deploy) -> None:
    """Note how many chats run at once; ends only by cancellation."""
    while True:
        deploy.most = max(deploy.most, await running(stack))
        await asyncio.sleep(1.0)


async def replace_all(stack: Stack, deploy: Deploy) -> None:
    """A rolling restart of the replicas, then of the workers; then kill some replicas."""
    for replica in stack.replicas:
        deploy.exits[_API_EXIT].append(await _stop(replica.place, API_GRACE, deploy.tally))
        await _bring_back(replica.place, replica.port)
    for worker in stack.workers:
        deploy.exits[_WORKER_EXIT].append(await _stop(worker.place, DRAIN + _WORKER_GRACE, deploy.tally))
        await worker.place.start()
        await stack.identify(worker)
    deploy.rolled = copy.deepcopy(deploy.tally)
    for replica in stack.replicas[:_KILLS]:
        await replica.place.kill()
        await _bring_back(replica.place, replica.port)


async def _stop(place: Place, grace: float, tally: Tally) -> float:
    told = time.monotonic()
    if not await place.stop(grace):
        tally.unstopped.append(place.name)
    return time.monotonic() - told


async def _bring_back(place: Place, port: int) -> None:
    """Start a replica, and give the load balancer the time to see it before the next one goes."""
    await place.start()
    while not await _answers(port):  # noqa: ASYNC110  # a process tells us by answering
        await asyncio.sleep(_POLL)
    await asyncio.sleep(_CHECKS)


async def _answers(port: int) -> bool:
    try:
        async with http.request(port, "GET", "/healthz") as answer:
            return answer.status == 200
    except http.FAILURES:
        return False


@asynccontextmanager
async def balancer(folder: Path, replicas: Sequence[int]) -> AsyncIterator[int]:
    """HAProxy with the configuration that we ship, in front of the replicas at these ports; its own port.

    Raises:
        StartFailed: it is not installed, or does not start.
    """
    if HAPROXY is None:
        raise StartFailed("there is no HAProxy here: install haproxy")
    port, status = free_port(), free_port()
    config = folder / "haproxy.cfg"
    config.write_text(localise((ROOT / "deploy" / "haproxy.cfg").read_text(), port, status, replicas))
    place = Place("haproxy", [HAPROXY, "-db", "-f", str(config)], {}, folder)
    await place.start()
    try:
        while not await _answers(status):
            if place.crashes:
                raise StartFailed(place.crashes[0])
            await asyncio.sleep(_POLL)
        yield port
    finally:
        await place.leave()


def localise(config: str, port: int, status: int, replicas: Sequence[int]) -> str:
    """Our configuration of HAProxy outside Docker, as its first lines say: replicas by name, no resolvers.

    It listens on `port`, and on `status` for those who ask how it is; the replicas' ports are `replicas`.
    """
    config = re.sub(r"^resolvers .*\n(?:[ \t]+.*\n)*", "", config, flags=re.MULTILINE)
    servers = "\n".join(f"    server replica{place} 127.0.0.1:{own} check" for place, own in enumerate(replicas))
    config = re.sub(r"^ +server-template .*$", servers, config, flags=re.MULTILINE)
    for line, ours in ((":8080", port), (":8404", status)):
        config = config.replace(f"    bind {line}\n", f"    bind 127.0.0.1:{ours}\n")
    return config
