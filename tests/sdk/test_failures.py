"""What the official SDK's user sees when workers and replicas die, on surfaces that have no word for it."""

import signal
from typing import Any

import openai
import pytest
from harness.client import numbered
from openai import OpenAI

USER: Any = [{"role": "user", "content": "Count"}]
DELTAS = numbered(40)
CONTINUE = {"X-Piropiro-On-Worker-Loss": "continue"}


def simulator(**script: Any) -> dict[str, Any]:
    return {"simulator": {"ttft": 0, "interval": 0.02, "deltas": DELTAS, **script}}


def failing_once(key: str, **script: Any) -> dict[str, Any]:
    """The first answer is cut after five deltas."""
    return simulator(key=key, fault={"kind": "cut", "after": 5, "times": 1}, **script)


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


@pytest.fixture
def frail(start_stack):
    """A stack of the test's own, to kill parts of."""
    return start_stack(apis=2, workers=1, lease=1)


@pytest.fixture
def clients(frail):
    with (
        OpenAI(base_url=f"{frail.apis[0].url}/v1", api_key="unused", max_retries=0, timeout=30) as one,
        OpenAI(base_url=f"{frail.apis[1].url}/v1", api_key="unused", max_retries=0, timeout=30) as other,
    ):
        yield one, other


def lose_the_worker(stack):
    (doomed,) = stack.workers
    stack.start_worker()
    stack.wait_until_ready(workers=2)
    stack.kill_worker(doomed)


def test_a_completion_goes_on_where_its_killed_worker_stopped(frail, clients):
    stream = clients[1].chat.completions.create(
        model="m", messages=USER, stream=True, extra_headers=CONTINUE, extra_body=simulator(interval=0.1)
    )
    chunks = [next(stream) for _ in range(5)]
    lose_the_worker(frail)
    chunks += stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(DELTAS)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks].count("assistant") == 1


def test_a_response_goes_on_where_its_killed_worker_stopped(frail, clients):
    stream = clients[1].responses.create(
        model="m",
        input="Count",
        background=True,
        stream=True,
        extra_headers=CONTINUE,
        extra_body={"upstream": simulator(interval=0.1)},
    )
    events = [next(stream) for _ in range(8)]
    lose_the_worker(frail)
    events += stream
    assert text_of(events) == events[-1].response.output_text == "".join(DELTAS)
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_response_goes_on_on_another_replica_when_one_is_killed(frail, clients):
    one, other = clients
    stream = one.responses.create(
        model="m", input="Count", background=True, stream=True, extra_body={"upstream": simulator()}
    )
    events = [next(stream) for _ in range(10)]
    frail.apis[0].process.kill()
    with pytest.raises(openai.APIConnectionError):
        events += stream
    events += other.responses.retrieve(events[0].response.id, stream=True, starting_after=events[-1].sequence_number)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert text_of(events) == events[-1].response.output_text == "".join(DELTAS)


@pytest.mark.parametrize("is_killed", [False, True], ids=["told to stop", "killed"])
def test_a_completion_of_a_replica_that_goes_is_a_connection_error(frail, clients, is_killed):
    """And never an answer that only looks complete. The idempotency key gives it from the start, elsewhere."""
    one, other = clients
    ask: Any = {"model": "m", "messages": USER, "stream": True, "extra_headers": {"Idempotency-Key": "once"}}
    stream = one.chat.completions.create(**ask, extra_body=simulator())
    first = [next(stream) for _ in range(10)]
    process = frail.apis[0].process
    process.signal(signal.SIGKILL if is_killed else signal.SIGTERM)
    with pytest.raises(openai.APIError):
        first += stream
    again = list(other.chat.completions.create(**ask, extra_body=simulator()))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in again) == "".join(DELTAS)
    assert again[: len(first)] == first


def test_a_completion_that_starts_again_is_an_error_and_never_wrong_text(client, other_client, key):
    ask: Any = {"model": "m", "messages": USER, "stream": True, "extra_headers": {"Idempotency-Key": key}}
    chunks: list[Any] = []
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - what came before counts too
        for chunk in client.chat.completions.create(**ask, extra_body=failing_once(key)):
            chunks.append(chunk)  # noqa: PERF402 - those before the error are kept
    assert caught.value.code == "generation_restarted"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(DELTAS[:5])
    again = other_client.chat.completions.create(**ask, extra_body=failing_once(key))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in again) == "".join(DELTAS)


def test_whoever_waits_for_a_completion_gets_the_attempt_that_worked(client, key):
    completion = client.chat.completions.create(model="m", messages=USER, extra_body=failing_once(key))
    assert completion.choices[0].message.content == "".join(DELTAS)


def test_a_response_that_starts_again_says_so_and_is_read_anew(client, other_client, key):
    stream = client.responses.create(
        model="m", input="Count", background=True, stream=True, extra_body={"upstream": failing_once(key)}
    )
    events = list(stream)
    assert (events[-1].type, events[-1].code) == ("error", "generation_restarted")
    assert text_of(events) == "".join(DELTAS[:5])
    response_id = events[0].response.id
    anew = list(other_client.responses.retrieve(response_id, stream=True))
    assert [event.sequence_number for event in events + anew] == list(range(len(events) + len(anew)))
    assert text_of(anew) == anew[-1].response.output_text == "".join(DELTAS)
    in_between = other_client.responses.retrieve(response_id, stream=True, starting_after=7)
    assert [event.to_dict() for event in in_between] == [event.to_dict() for event in events[8:]]
    with other_client.responses.stream(response_id=response_id) as helper:
        assert helper.get_final_response().output_text == "".join(DELTAS)
