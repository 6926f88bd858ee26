"""`docker compose up` in a real engine: what clients see through the load balancer while containers come and go."""

import asyncio
import os
import subprocess
import uuid

import httpx
import pytest
from harness.client import body, numbered
from harness.polling import wait_until
from harness.processes import ROOT
from harness.programs import NEEDS_CURL
from harness.sse import parse, raw_of

ARTICLE = '{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"やっほ"}]}'
DELTAS = numbered(300)
REQUESTS = 200
AT_ONCE = 8

pytestmark = pytest.mark.timeout(300)


@NEEDS_CURL
def test_the_articles_curl_is_answered(project):
    command = ["curl", "-sN", "-H", "Content-Type: application/json", "-d", ARTICLE, f"{project.url}/v1/chat/stream"]
    *deltas, done = parse(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert "".join(event.data for event in deltas).startswith("やっほ")
    assert done.name == "done"


async def test_events_arrive_while_the_answer_is_generated(api):
    async with api.posting(body({"deltas": DELTAS, "interval": 0.01})) as reading:
        await reading.first(1)
        assert (await api.chat(reading.chat_id))["status"] == "running"
        await reading.rest()
    assert [event.data for event in reading.events] == [*DELTAS, "[DONE]"]


@pytest.mark.parametrize("how", ["stop", "kill", "pause"])
async def test_a_replica_lost_in_mid_stream_costs_its_client_nothing(project, api, how):
    async with api.posting(body({"deltas": DELTAS, "interval": 0.05})) as reading:
        await reading.first(20)
        doomed = await asyncio.to_thread(project.replica_with_stream)
        losing = asyncio.create_task(asyncio.to_thread(project.docker, how, doomed))
        try:
            await reading.rest()
        except httpx.TransportError:
            assert how != "stop", "a stopping replica ends its streams in order"
        await losing
    if how == "kill":  # docker does not wait for the end, and until then the kernel takes connections for it
        await wait_until(lambda: not project.inspect(doomed)["State"]["Running"])
    kept = reading.events
    assert not kept[-1].is_terminal
    rest = await api.read(reading.chat_id, cursor=kept[-1].id)
    assert raw_of(kept) + rest.received == (await api.read(reading.chat_id)).received
    assert [event.data for event in kept + rest.events] == [*DELTAS, "[DONE]"]


@pytest.mark.parametrize("how", ["stop", "kill", "pause"])
async def test_without_one_replica_every_request_succeeds(project, api, how):
    project.docker(how, project.containers("api")[0])
    await wait_until(lambda: len(project.up_servers()) == 1)
    for _ in range(REQUESTS // AT_ONCE):
        readings = await asyncio.gather(*(api.ask(body({"deltas": ["a", "b"]})) for _ in range(AT_ONCE)))
        assert {reading.received == raw_of(reading.events) for reading in readings} == {True}
        assert {tuple(event.data for event in reading.events) for reading in readings} == {("a", "b", "[DONE]")}


@pytest.mark.parametrize("change", ["grow", "shrink", "kill", "pause"])
async def test_no_chat_is_lost_while_replicas_come_and_go(project, api, change):
    """A client that repeats what was lost or answered 502 or 503, with its idempotency key, gets every chat once."""
    if change == "shrink":
        project.up("--no-recreate", api=3)
    changing = asyncio.create_task(asyncio.to_thread(change_replicas, project, change))
    answers = []
    while not changing.done() or len(answers) < REQUESTS:
        answers += await asyncio.gather(*(create_stubbornly(api) for _ in range(AT_ONCE)))
    await changing
    assert len({chat["id"] for chat, _ in answers}) == len(answers)
    if change == "grow":
        assert {repeats for _, repeats in answers} == {0}


def change_replicas(project, change):
    if change in ("grow", "shrink"):
        project.up("--no-recreate", api=3 if change == "grow" else 2)
    else:
        project.docker(change, project.containers("api")[0])


async def create_stubbornly(api):
    """A new chat, and how often its creation had to be repeated."""
    key, repeats = uuid.uuid4().hex, 0
    while True:
        try:
            answer = await api.http.post(
                "/v1/chats", json=body({"deltas": ["a"]}), headers={"Idempotency-Key": key, "Connection": "close"}
            )
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code not in (502, 503):
            assert answer.status_code == 202, answer.text
            return answer.json(), repeats
        repeats += 1


async def test_replicas_and_workers_that_are_added_are_found(project, api):
    project.up("--no-recreate", api=3, worker=3)
    before = {server.ip: server.requests for server in project.up_servers()}

    async def all_have_served() -> bool:
        await api.ask(body({"deltas": ["a"]}))
        return all(server.requests > before[server.ip] for server in project.up_servers())

    await wait_until(all_have_served, 30)
    assert len(before) == 3


async def test_a_killed_workers_chats_end_well(project, api):
    posted = body({"deltas": DELTAS, "interval": 0.05})
    chats = [await api.create(posted) for _ in range(10)]
    await asyncio.gather(*(api.chat_when(chat["id"], "running") for chat in chats))
    project.docker("kill", project.containers("worker")[0])
    ended = await asyncio.gather(*(api.chat_when(chat["id"], "done", within=60) for chat in chats))
    assert {chat["text"] for chat in ended} == {"".join(DELTAS)}
    assert {chat["attempts"] for chat in ended} == {1, 2}


async def test_a_worker_that_hangs_fails_its_healthcheck(project):
    worker = project.containers("worker")[0]
    kind, *command = project.inspect(worker)["Config"]["Healthcheck"]["Test"]
    command = ["sh", "-c", *command] if kind == "CMD-SHELL" else command

    def is_well() -> bool:
        return subprocess.run(["docker", "exec", worker, *command], check=False).returncode == 0

    assert is_well()
    hang = "for p in /proc/[0-9]*; do read -r name <$p/comm; [ $name != piropiro ] || kill -STOP ${p#/proc/}; done"
    project.docker("exec", worker, "sh", "-c", hang)
    await wait_until(lambda: not is_well(), 60)
    project.docker("kill", worker)


async def test_a_chat_outlives_a_restart_of_redis(project, api):
    before = await api.ask(body({"deltas": DELTAS}))
    project.compose("restart", "redis")
    await wait_until(lambda: project.live_workers() == 2, 30)
    assert (await api.read(before.chat_id)).received == before.received
    assert (await api.ask(body({"deltas": ["a"]}))).events[-1].name == "done"


async def test_without_any_replica_the_answer_is_503_in_the_envelope(project, api):
    project.compose("stop", "api")
    await wait_until(lambda: not project.up_servers())
    for method, path in (("POST", "/v1/chat/stream"), ("GET", "/v1/chats/chat_aaaaaaaaaaaaaaaaaaaa")):
        answer = await api.http.request(method, path, content=ARTICLE if method == "POST" else None)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_no_container_has_privileges(project):
    for container in project.containers():
        host = project.inspect(container)["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        _, *processes = project.docker("top", container, "-eo", "pid,uid").splitlines()
        assert "0" not in {process.split()[1] for process in processes}


def test_one_image_serves_api_worker_and_simulator(project):
    images = {project.inspect(project.containers(name)[0])["Image"] for name in ("api", "worker", "simulator")}
    assert len(images) == 1


def test_the_configuration_has_no_warnings():
    command = ["docker", "compose", "--env-file", os.devnull, "config", "-q"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""
