"""The log under all that Hypothesis finds of two workers, a canceller, lost replies, compaction and readers."""

import asyncio
from itertools import pairwise

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import shared.log
from shared import events
from shared.chat import OnWorkerLoss, new_chat_id
from shared.connect import connect
from shared.cursor import ACCEPTED, START, TERMINAL, EntryId
from shared.log import Appended, Batch, Behind, ChatLog, Claimed, Fenced, Gone, Refused, Sealed, Unserved
from shared.queue import HandedOver, JobQueue, NewChat

WORKERS = st.sampled_from(["red", "blue"])


class Attempt:
    """A worker's own memory of an attempt: what it generated, and how much of that it believes to be stored."""

    def __init__(self, token, number, before):
        self.token, self.number, self.before = token, number, before
        self.values, self.stored, self.is_fenced = [], 0, False


class LogMachine(RuleBasedStateMachine):
    cuts = Bundle("readers")

    def __init__(self, make_redis, runner):
        super().__init__()
        self.runner = runner
        self.redis = make_redis()
        self.do(self.redis.flushall())
        self.log, self.queue = ChatLog(self.redis, 60), JobQueue(self.redis)
        self.chat_id, self.tokens = new_chat_id(), 0
        self.attempts, self.current = {}, {}
        self.intended, self.sealed_with = {}, None
        self.seen = []

    @initialize(policy=st.sampled_from(OnWorkerLoss))
    def submit(self, policy):
        self.policy = policy
        self.do(self.queue.submit(NewChat(self.chat_id, "m", b"{}", "f", on_worker_loss=policy), 10))

    def teardown(self):
        self.do(self.redis.aclose())

    def do(self, coroutine):
        return self.runner.run(coroutine)

    def entries(self):
        return self.do(self.log.read(self.chat_id, START, 10_000))

    def note_seal(self, result):
        if isinstance(result, Sealed):
            assert self.sealed_with in (None, result.terminal)
            self.sealed_with = result.terminal

    @rule(worker=WORKERS, is_conditional=st.booleans(), is_sent_twice=st.booleans())
    def claim(self, worker, is_conditional, is_sent_twice):
        self.tokens += 1
        token = f"{worker}-{self.tokens}"
        held = self.current.get(worker)
        previous = held.token if held and is_conditional else None
        for _ in range(1 + is_sent_twice):
            result = self.do(self.log.claim(self.chat_id, token=token, worker_id=worker, reason="-", previous=previous))
        assert not isinstance(result, Gone)
        self.note_seal(result)
        if previous and held.is_fenced:
            assert isinstance(result, Fenced | Sealed)
        if isinstance(result, Refused):
            assert self.policy is OnWorkerLoss.FAIL
            assert self.has_chunks
            self.fence_all()
            self.current.pop(worker, None)
            self.note_seal(self.do(self.log.seal(self.chat_id, events.error(token, "t", None), only_token=token)))
            assert self.sealed_with is not None
        if isinstance(result, Claimed):
            assert not (self.has_chunks and self.policy is OnWorkerLoss.FAIL)
            assert result.continues == (self.has_chunks and self.policy is OnWorkerLoss.CONTINUE)
            assert result.attempt == len(self.intended) + 1
            self.fence_all()
            self.current[worker] = self.attempts[token] = Attempt(token, result.attempt, result.length)
            self.intended[result.attempt] = self.attempts[token].values

    @property
    def has_chunks(self):
        return any(entry.is_chunk for entry in self.entries())

    def fence_all(self):
        for attempt in self.attempts.values():
            attempt.is_fenced = True

    @precondition(lambda self: self.current)
    @rule(worker=WORKERS, count=st.integers(1, 4), is_reply_lost=st.booleans())
    def append(self, worker, count, is_reply_lost):
        attempt = self.current.get(worker)
        if attempt is None:
            return
        attempt.values += [b"t%s:%d" % (attempt.token.encode(), len(attempt.values) + n) for n in range(count)]
        self.flush(attempt, None, is_reply_lost)

    @precondition(lambda self: self.current)
    @rule(worker=WORKERS, is_reply_lost=st.booleans())
    def finish(self, worker, is_reply_lost):
        attempt = self.current.get(worker)
        if attempt is not None:
            self.flush(attempt, events.done(attempt.token, None), is_reply_lost)

    def flush(self, attempt, terminal, is_reply_lost):
        batch = Batch(
            self.chat_id,
            attempt.token,
            attempt.number,
            attempt.before,
            attempt.stored + 1,
            list(attempt.values[attempt.stored :]),
            terminal,
        )
        (result,) = self.do(self.log.append([batch]))
        assert not isinstance(result, Unserved)
        if attempt.is_fenced or self.sealed_with is not None:
            assert isinstance(result, Fenced | Sealed)
        self.note_seal(result)
        if is_reply_lost:
            return
        match result:
            case Appended():
                attempt.stored = len(attempt.values)
            case Behind(top):
                assert top.attempt == attempt.number
                attempt.stored = top.seq

    @rule()
    def cancel(self):
        self.note_seal(self.do(self.log.seal(self.chat_id, events.cancelled())))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def give_up(self, data):
        attempt = data.draw(st.sampled_from(sorted(self.attempts.values(), key=lambda a: a.token)))
        result = self.do(self.log.seal(self.chat_id, events.error("-", "t", None), only_token=attempt.token))
        if attempt.is_fenced and self.sealed_with is None:
            assert isinstance(result, Fenced)
        self.note_seal(result)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def hand_over(self, data):
        attempt = data.draw(st.sampled_from(sorted(self.attempts.values(), key=lambda a: a.token)))
        result = self.do(self.queue.hand_over(self.chat_id, attempt.token, failed=True))
        self.note_seal(result)
        if isinstance(result, HandedOver):
            assert not attempt.is_fenced
            attempt.is_fenced = True

    @rule()
    def compact(self):
        entries = self.entries()
        if self.do(self.log.compact(self.chat_id)):
            assert self.sealed_with is not None
        for place, entry in enumerate(entries):
            assert self.do(self.log.look_up(self.chat_id, entry.id))[1]
            assert self.do(self.log.read(self.chat_id, entry.id, 1000)) == entries[place + 1 :]

    @rule(target=cuts)
    def reader_arrives(self):
        return []

    @rule(reader=cuts, count=st.integers(1, 5))
    def reader_resumes_and_reads_on(self, reader, count):
        cursor = reader[-1].id if reader else START
        if reader:
            _, is_entry = self.do(self.log.look_up(self.chat_id, cursor))
            assert is_entry
        reader += self.do(self.log.read(self.chat_id, cursor, count))
        assert reader == self.entries()[: len(reader)]

    @invariant()
    def the_log_only_grows_and_never_changes(self):
        entries = self.entries()
        assert entries[: len(self.seen)] == self.seen
        self.seen = entries

    @invariant()
    def attempts_follow_each_other_without_holes_and_each_is_what_its_worker_generated(self):
        entries = self.entries()
        assert entries[0].id == ACCEPTED
        for before, entry in pairwise(entries):
            assert not before.is_terminal
            if entry.is_chunk:
                assert entry.id == EntryId(before.id.attempt, before.id.seq + 1)
                assert self.intended[entry.id.attempt][entry.id.seq - 1] == entry.value
            else:
                assert entry.id == (TERMINAL if entry.is_terminal else EntryId(before.id.attempt + 1, 0))

    @invariant()
    def an_attempt_restarts_only_what_there_is(self):
        has_chunks = False
        for entry in self.entries():
            if entry.id.seq == 0:
                supersedes = has_chunks and self.policy is OnWorkerLoss.RESTART
                assert entry.value[:1] == (b"R" if supersedes else b"S")
            has_chunks |= entry.is_chunk

    @invariant()
    def a_terminal_entry_once_told_stays_the_only_one(self):
        terminals = [entry.value for entry in self.entries() if entry.is_terminal]
        assert terminals == ([self.sealed_with] if self.sealed_with else [])


@pytest.fixture(autouse=True)
def small_runs(monkeypatch):
    """Logs are short here."""
    monkeypatch.setattr(shared.log, "_WORTHWHILE", 1)
    monkeypatch.setattr(shared.log, "_PAGE", 4)


def explore(make_redis, examples):
    with asyncio.Runner() as runner:
        run_state_machine_as_test(
            lambda: LogMachine(make_redis, runner),
            settings=settings(
                max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


@pytest.mark.timeout(120)
def test_the_log_keeps_its_promises_on_a_fake_server():
    explore(fakeredis.FakeAsyncRedis, examples=25)


@pytest.mark.timeout(120)
def test_the_log_keeps_its_promises_on_a_real_server(server_url):
    explore(lambda: connect(server_url), examples=60)
