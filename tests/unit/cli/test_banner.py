"""The banner: its command can be pasted, and it says what is not the real thing."""

import dataclasses
import json
import shlex

from cli.banner import Facts, banner, curl

FACTS = Facts(
    url="http://127.0.0.1:8000",
    replicas=[],
    redis="redis://127.0.0.1:7000/0",
    embedded=True,
    simulated=True,
    api=1,
    workers=2,
)


def test_command_stands_alone_on_its_line() -> None:
    assert curl(FACTS.url) in banner(FACTS).splitlines()


def test_command_survives_the_shell() -> None:
    *_, body, url = shlex.split(curl(FACTS.url))
    assert url == "http://127.0.0.1:8000/v1/chat/stream"
    assert [message["role"] for message in json.loads(body)["messages"]] == ["system", "user"]


def test_simulated_upstream_is_named() -> None:
    assert "answers come from the simulator; set OPENAI_API_KEY" in banner(FACTS)
    assert "simulator" not in banner(dataclasses.replace(FACTS, simulated=False))


def test_replicas_are_listed_when_there_are_several() -> None:
    replicas = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]
    text = banner(dataclasses.replace(FACTS, api=2, replicas=replicas))
    assert "http://127.0.0.1:8001  http://127.0.0.1:8002" in text
    assert "2 API processes, 2 workers" in text
    assert "replicas" not in banner(FACTS)
