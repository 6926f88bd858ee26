import asyncio
from contextlib import asynccontextmanager

import pytest

from shared import events, json_text
from shared.chat import OnWorkerLoss, Status, new_chat_id
from shared.cursor import START
from shared.events import Transcript
from shared.queue import NewChat
from shared.settings import Settings
from worker import generate
from worker.generate import Generator
from worker.upstream import UpstreamError

STALL = object()
CUT = UpstreamError("cut", code="upstream_disconnected", is_final=False)
REFUSED = UpstreamError("no: sk-secret123", code="bad", type_="invalid_request_error", param="x", is_final=True)


def chunk(content=None, finish_reason=None, index=0, **further):
    delta = {} if content is None else {"content": content}
    return json_text.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}], **further})


FINISH = chunk(finish_reason="stop")
USAGE = json_text.dumps({"choices": [], "usage": {"total_tokens": 3}})


class FakeUpstream:
    """Plays one script per request: chunks to give, errors to raise, a name to begin with, `STALL` to wait for ever."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.requests = []
        self.generations = []
        self.open = 0

    async def stream(self, request, sink, generation):
        self.requests.append(json_text.loads(request))
        self.generations.append(generation)
        self.open += 1
        try:
            for step in self.scripts.pop(0):
                if step is STALL:
                    await asyncio.Event().wait()
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, str):
                    await sink.begin(step)
                    continue
                if not sink.take([step]):
                    await sink.room()
        finally:
            self.open -= 1

    def abandon(self, answer_id):
        pass

    async def close(self):
        pass


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(generate, "backoff", lambda _: 0.0)


@pytest.fixture
def run(log, queue, writer):
    """Create a chat and run it against the scripts; gives the upstream and what became of the chat."""

    async def run(*scripts, on_worker_loss=OnWorkerLoss.RESTART, asked=None, **settings):
        upstream = FakeUpstream(*scripts)
        async with generating(log, queue, writer, upstream, on_worker_loss, asked, **settings) as (chat_id, job, _):
            await job
        return upstream, await outcome(log, chat_id)

    return run


@asynccontextmanager
async def generating(log, queue, writer, upstream, on_worker_loss=OnWorkerLoss.RESTART, asked=None, **settings):
    request = json_text.dumps({"messages": [{"role": "user", "content": "hi"}], **(asked or {})})
    chat = NewChat(new_chat_id(), "m", request, "f", on_worker_loss=on_worker_loss)
    await queue.submit(chat, 10)
    generator = Generator(
        log=log, queue=queue, writer=writer, upstream=upstream, settings=Settings(**settings), worker_id="w"
    )
    job = asyncio.create_task(generator.run(chat.id))
    yield chat.id, job, generator
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


class Outcome:
    def __init__(self, chat, entries):
        self.status, self.attempts = chat.status, chat.attempts
        self.kinds = b"".join(entry.kind for entry in entries).decode()
        self.text = Transcript.of(entries).text
        self.end = entries[-1].payload() if entries[-1].is_terminal else None


async def outcome(log, chat_id):
    return Outcome(*await log.snapshot(chat_id))


async def until(condition):
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.005)


async def test_a_complete_answer_is_done_with_reason_and_usage(run):
    _, chat = await run([chunk("a"), chunk("b"), FINISH, USAGE])
    assert (chat.status, chat.text) == (Status.DONE, "ab")
    assert chat.end == {"finish_reason": "stop", "usage": {"total_tokens": 3}}


async def test_a_stream_without_finish_reason_is_a_failed_attempt_and_never_done(run):
    upstream, chat = await run(*[[chunk("a")]] * 3, max_attempts=3)
    assert chat.status is Status.FAILED
    assert chat.end["error"]["code"] == "upstream_truncated"
    assert (chat.attempts, chat.kinds) == (3, "AScRcRcE")
    assert upstream.open == 0


async def test_a_cut_stream_is_restarted(run):
    _, chat = await run([chunk("a"), CUT], [chunk("b"), FINISH])
    assert (chat.status, chat.text, chat.kinds) == (Status.DONE, "b", "AScRcdD")


async def test_an_attempt_that_failed_before_any_chunk_costs_the_reader_nothing(run):
    _, chat = await run([CUT], [chunk("b"), FINISH])
    assert (chat.status, chat.kinds) == (Status.DONE, "ASScdD")


async def test_a_cut_after_the_finish_reason_loses_only_usage(run):
    upstream, chat = await run([chunk("a"), FINISH, CUT])
    assert (chat.status, chat.end, len(upstream.requests)) == (
        Status.DONE,
        {"finish_reason": "stop", "usage": None},
        1,
    )


def part(number, content=None, finish_reason=None, answer="resp_1"):
    return chunk(content, finish_reason, upstream_response_id=answer, upstream_sequence_number=number)


LOST = UpstreamError("gone", code="upstream_lost", is_final=False, is_lost=True)


async def test_an_answer_that_can_be_gone_on_with_is_and_its_next_attempt_knows_what_is_stored(run):
    upstream, chat = await run(
        ["resp_1", part(0, "a"), part(1, "b"), CUT], [part(2, "c"), CUT], [part(3, finish_reason="stop")]
    )
    assert (chat.status, chat.text, chat.kinds) == (Status.DONE, "abc", "AScdScScD")
    assert [generation.id for generation in upstream.generations] == [None, "resp_1", "resp_1"]
    assert len({generation.key for generation in upstream.generations}) == 1
    numbers = [[c["upstream_sequence_number"] for c in generation.chunks] for generation in upstream.generations]
    assert numbers == [[], [0, 1], [0, 1, 2]]
    assert [len(request["messages"]) for request in upstream.requests] == [1, 1, 1]


async def test_what_ended_an_answer_is_known_to_the_attempt_that_goes_on_with_it(run):
    _, chat = await run(["resp_1", part(0, "a", "length"), LOST])
    assert (chat.status, chat.end["finish_reason"]) == (Status.DONE, "length")


@pytest.mark.parametrize(
    ("choice", "kinds", "messages"), [(OnWorkerLoss.RESTART, "AScRcdD", 1), (OnWorkerLoss.CONTINUE, "AScScdD", 2)]
)
async def test_a_lost_answer_is_another_generation(run, choice, kinds, messages):
    upstream, chat = await run(
        ["resp_1", part(0, "a"), LOST],
        ["resp_2", part(0, "b", answer="resp_2"), part(1, finish_reason="stop", answer="resp_2")],
        on_worker_loss=choice,
    )
    assert (chat.status, chat.kinds) == (Status.DONE, kinds)
    assert [generation.id for generation in upstream.generations] == [None, None]
    assert len({generation.key for generation in upstream.generations}) == 2
    assert len(upstream.requests[1]["messages"]) == messages


async def test_only_the_chunks_of_the_answer_under_way_are_what_is_stored(run):
    upstream, chat = await run(
        ["resp_1", part(5, "a"), LOST],
        ["resp_2", part(0, "b", answer="resp_2"), CUT],
        [part(1, finish_reason="stop", answer="resp_2")],
        max_attempts=5,
    )
    assert (chat.status, chat.text) == (Status.DONE, "b")
    assert [c["upstream_sequence_number"] for c in upstream.generations[2].chunks] == [0]


async def test_an_answer_whose_chat_ends_otherwise_is_abandoned(run, log):
    _, chat = await run(["resp_1", part(0, "a"), REFUSED])
    assert chat.status is Status.FAILED
    assert await log.take_abandoned(9) == ["resp_1"]


async def test_a_final_refusal_ends_the_chat_at_once_without_secrets(run):
    upstream, chat = await run([REFUSED])
    assert len(upstream.requests) == 1
    assert chat.end == {"error": {"message": "no: ***", "type": "invalid_request_error", "param": "x", "code": "bad"}}


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"1", b'"x"', b"\xff"])
async def test_garbage_is_a_failed_attempt(run, garbage):
    _, chat = await run([chunk("a"), garbage], [chunk("b"), FINISH])
    assert (chat.status, chat.text, chat.attempts) == (Status.DONE, "b", 2)


async def test_an_error_inside_the_stream_reaches_the_client(run):
    report = json_text.dumps({"error": {"message": "overloaded", "type": "server_error", "code": None}})
    _, chat = await run(*[[chunk("a"), report]] * 2, max_attempts=2)
    assert chat.end["error"]["message"] == "overloaded"
    assert chat.attempts == 2


async def test_an_invalid_request_reported_inside_the_stream_is_final(run):
    report = json_text.dumps({"error": {"message": "too long", "type": "invalid_request_error"}})
    upstream, chat = await run([report])
    assert (chat.status, len(upstream.requests)) == (Status.FAILED, 1)


async def test_the_limit_is_on_the_answer_not_on_what_wraps_it(run):
    padded = [chunk("x", obfuscation=f"{n:0100}") for n in range(20)]
    _, chat = await run([*padded, FINISH], max_output=1000)
    assert chat.status is Status.DONE


async def test_an_endless_answer_of_wrapping_alone_is_an_error(run):
    _, chat = await run([chunk("", obfuscation=f"{n:010000}") for n in range(200)], max_output=1000)
    assert chat.end["error"]["code"] == "output_too_long"


async def test_an_answer_beyond_the_limit_is_an_error_and_no_more_than_the_limit_is_delivered(run):
    _, chat = await run([chunk("x" * 50) for _ in range(100)], max_output=1000)
    assert chat.text == "x" * 1000
    assert chat.end["error"]["code"] == "output_too_long"


async def test_a_chat_beyond_its_time_is_an_error_and_the_upstream_is_closed(run):
    upstream, chat = await run([chunk("a"), STALL], job_timeout=1)
    assert chat.end["error"]["code"] == "job_timeout"
    assert (chat.text, upstream.open) == ("a", 0)


async def test_a_chat_to_fail_on_loss_keeps_its_partial_text(run):
    upstream, chat = await run([chunk("a"), CUT], on_worker_loss=OnWorkerLoss.FAIL)
    assert (chat.status, chat.text, chat.attempts) == (Status.FAILED, "a", 1)
    assert chat.end["error"]["code"] == "upstream_disconnected"
    assert len(upstream.requests) == 1


async def test_a_continued_answer_goes_on_after_its_partial_text(run):
    upstream, chat = await run(
        [chunk("one "), CUT],
        [chunk("two "), CUT],
        [chunk("three"), FINISH],
        on_worker_loss=OnWorkerLoss.CONTINUE,
        continue_params={"prefix": True},
    )
    assert (chat.status, chat.text) == (Status.DONE, "one two three")
    assert "R" not in chat.kinds
    assert upstream.requests[2]["messages"][-1] == {"role": "assistant", "content": "one two "}
    assert upstream.requests[2]["prefix"] is True
    assert "prefix" not in upstream.requests[0]


async def test_with_nothing_to_continue_the_request_is_sent_as_it_was(run):
    role = json_text.dumps({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    upstream, chat = await run([role, CUT], [chunk("a"), FINISH], on_worker_loss=OnWorkerLoss.CONTINUE)
    assert chat.text == "a"
    assert upstream.requests[0] == upstream.requests[1]


async def test_a_partial_tool_call_cannot_be_continued(run):
    call = json_text.dumps({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})
    _, chat = await run([call, CUT], on_worker_loss=OnWorkerLoss.CONTINUE)
    assert chat.end["error"]["code"] == "cannot_continue"


async def test_a_cancelled_chat_closes_its_upstream_and_the_job_ends_quietly(log, queue, writer):
    upstream = FakeUpstream([chunk("a"), STALL])
    async with generating(log, queue, writer, upstream) as (chat_id, job, generator):

        async def streams():
            return (await outcome(log, chat_id)).text == "a"

        await until(streams)
        sealed = await log.seal(chat_id, events.cancelled())
        generator.running[chat_id].lose(sealed)
        await job
    assert upstream.open == 0
    assert (await outcome(log, chat_id)).status is Status.CANCELLED


async def test_a_cancelled_job_hands_its_chat_over_with_all_that_was_received(log, queue, writer):
    upstream = FakeUpstream([chunk("a"), chunk("b"), STALL])
    async with generating(log, queue, writer, upstream) as (chat_id, job, _):

        async def streams():
            return upstream.open == 1 and (await outcome(log, chat_id)).kinds == "ASct"

        await until(streams)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    chat = await outcome(log, chat_id)
    assert (chat.status, chat.text) == (Status.QUEUED, "ab")
    assert await queue.waiting(9) == [f"{chat_id}:2"]


async def test_a_job_cancelled_between_two_attempts_hands_its_chat_over(log, queue, writer, monkeypatch):
    monkeypatch.setattr(generate, "backoff", lambda _: 60.0)
    upstream = FakeUpstream([chunk("a"), CUT])
    async with generating(log, queue, writer, upstream) as (chat_id, job, generator):

        async def pauses():
            return upstream.requests and not upstream.open and not generator.running

        await until(pauses)
        assert generator.held == {chat_id}
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert not generator.held
    assert (await outcome(log, chat_id)).status is Status.QUEUED


async def test_a_reason_for_a_restart_is_never_the_upstreams_own_text(log, queue, writer):
    report = json_text.dumps({"error": {"message": "x", "code": "sk-secret\ud83d"}})
    upstream = FakeUpstream([chunk("a"), report], [chunk("b"), FINISH])
    async with generating(log, queue, writer, upstream) as (chat_id, job, _):
        await job
    reasons = [e.payload()["reason"] for e in await log.read(chat_id, START, 99) if e.kind is events.Kind.RESTART]
    assert reasons == ["upstream_error"]


async def test_a_job_whose_chat_has_ended_or_is_gone_does_nothing(log, queue, writer):
    upstream = FakeUpstream([chunk("a"), FINISH])
    async with generating(log, queue, writer, upstream) as (chat_id, job, generator):
        await job
        await generator.run(chat_id)
        cancelled = NewChat(new_chat_id(), "m", b"{}", "f")
        await queue.submit(cancelled, 10)
        await log.seal(cancelled.id, events.cancelled())
        await generator.run(cancelled.id)
        await generator.run("chat_nobody")
    assert len(upstream.requests) == 1


async def test_an_attempt_that_is_fenced_while_it_fails_does_not_take_the_chat_back(log, queue, writer):
    upstream = FakeUpstream([chunk("a"), STALL])
    async with generating(log, queue, writer, upstream) as (chat_id, job, generator):

        async def streams():
            return (await outcome(log, chat_id)).text == "a"

        await until(streams)
        await log.claim(chat_id, token="other", worker_id="v", reason="-")
        generator.running[chat_id].append(b"tb")
        await job
    assert upstream.open == 0
    assert (await outcome(log, chat_id)).attempts == 2


async def test_a_bug_in_the_adapter_ends_the_chat_visibly(run, caplog):
    _, chat = await run([chunk("a"), RuntimeError("secret detail")])
    assert chat.status is Status.FAILED
    assert "secret" not in str(chat.end)


async def test_the_log_keeps_every_chunk_as_it_came(log, queue, writer):
    chunks = [
        chunk("a", id="x", logprobs={"content": [{"token": "a", "logprob": -0.5}]}),
        chunk("b", id="x", obfuscation="zz"),
        json_text.dumps({"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "other"}}]}),
        chunk(finish_reason="stop", id="x"),
        USAGE,
    ]
    upstream = FakeUpstream(chunks)
    async with generating(log, queue, writer, upstream) as (chat_id, job, _):
        await job
    restored = events.restore_chunks(await log.read(chat_id, START, 100))
    assert list(restored) == [json_text.loads(c) for c in chunks]


async def test_an_answer_of_several_choices_is_complete_when_all_of_them_are(run):
    script = [
        chunk("a"),
        chunk("x", index=1),
        FINISH,
        chunk("y", index=1),
        chunk(finish_reason="length", index=1),
        USAGE,
    ]
    _, chat = await run(script, asked={"n": 2})
    assert (chat.status, chat.text) == (Status.DONE, "a")
    assert chat.end == {"finish_reason": "stop", "usage": {"total_tokens": 3}}


async def test_an_answer_that_lacks_a_choice_is_a_failed_attempt(run):
    _, chat = await run([chunk("a"), FINISH], [chunk("b"), FINISH, chunk("x", "stop", index=1)], asked={"n": 2})
    assert (chat.status, chat.text, chat.attempts) == (Status.DONE, "b", 2)


async def test_several_choices_cannot_be_continued(run):
    upstream, chat = await run([chunk("a"), CUT], on_worker_loss=OnWorkerLoss.CONTINUE, asked={"n": 2})
    assert (chat.status, len(upstream.requests)) == (Status.FAILED, 1)
    assert chat.end["error"]["code"] == "cannot_continue"


async def test_the_text_of_all_choices_counts_against_the_limit(run):
    _, chat = await run([chunk("x" * 50, index=index % 5) for index in range(100)], asked={"n": 5}, max_output=1000)
    assert chat.end["error"]["code"] == "output_too_long"


async def test_what_the_upstream_refused_with_is_kept(run):
    _, chat = await run([UpstreamError("wait", code="c", is_final=True, status=429, retry_after=7.0)])
    assert (chat.end["status"], chat.end["retry_after"]) == (429, 7.0)
