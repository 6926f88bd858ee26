"""Whether a chat kept the promises: a pure function of its evidence, which knows the contract and no code of it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from faults.evidence import TERMINAL_ID, Evidence, Span, View
from faults.settings import LEFT_LIMIT, MAX_ATTEMPTS, READ_FOR, UPSTREAM_RETRIES
from faults.sse import Event

_CHUNKS = (b"c", b"d", b"t")
_TERMINALS = {b"D": "done", b"E": "error", b"X": "cancelled"}
_STATUSES = {"done": "done", "error": "failed", "cancelled": "cancelled"}
_TERMINAL = (2**64 - 1, 2**64 - 1)
_LINE_BREAK = re.compile(r"\r\n|\r")

_ALWAYS_POSSIBLE = {"worker_lost", "upstream_disconnected", "upstream_stalled", "upstream_unreachable"}
"""Codes of errors that the campaign's own faults can cause in any chat."""

_CAUSED_BY = {
    "truncate": {"upstream_truncated"},
    "done_without_finish": {"upstream_truncated"},
    "garbage": {"upstream_garbage"},
    "error": {"upstream_error"},
    "status": {"upstream_error"},
}
_FINAL_AT_ONCE = {"upstream_unreachable"}

_IF_RESUMABLE = {"upstream_lost", "server_error"}
"""Codes that an upstream which can go on with an answer makes possible too: it died and forgot it, or it failed."""

_OF_THE_ANSWER = ("error", "status")
"""Faults that such an upstream's answer has itself; all others are its connections', and cost nothing."""


class Column(StrEnum):
    """What can be wrong; all are zero in a good run."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "reordered"
    STUCK = "stuck"
    WRONG = "wrong text"
    LATE = "late entries"
    TERMINALS = "two terminals"
    END = "wrong end"
    TWICE = "generated twice"
    LEAVING = "wrong when left"
    SLOW = "POST answered too late"
    LEFT = "left over"
    PROCESS = "crashed or unstoppable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise, and the chat whose it was (its label, or its id if it has none)."""

    column: Column
    chat: str
    detail: str

    def __str__(self) -> str:
        return f"{self.chat}: {self.column}: {self.detail}"


_Problem = tuple[Column, str]
_Id = tuple[int, int]


def check(evidence: Evidence) -> list[Finding]:
    """Everything that is wrong with a chat, at most once per column and place."""
    return [Finding(column, evidence.plan.label, detail) for column, detail in _problems(evidence)]


def check_orphan(chat_id: str, entries: Sequence[tuple[str, bytes]]) -> list[Finding]:
    """What is wrong with the log of a chat that nobody reads, because the answer to its POST was lost."""
    return [Finding(column, chat_id, detail) for column, detail in _check_log(entries)]


def _problems(evidence: Evidence) -> Iterator[_Problem]:
    if evidence.chat_id is None:
        yield Column.STUCK, "no POST was ever accepted"
        return
    yield from _check_log(evidence.entries)
    yield from _check_creation(evidence)
    if evidence.is_final and not (evidence.replay and evidence.chat):
        yield Column.STUCK, "it ended, but no replica would replay and describe it"
        return
    if evidence.is_final:
        yield from _named("the replay", _check_replay(evidence))
        yield from _check_text(evidence)
        yield from _check_end(evidence)
        yield from _check_description(evidence)
        yield from _check_leaving(evidence)
    for view in evidence.views:
        yield from _named(view.reader, _check_view(view, evidence))


def _named(who: str, problems: Iterable[_Problem]) -> Iterator[_Problem]:
    return ((column, f"{who}: {detail}") for column, detail in problems)


def _parse(entry_id: str) -> tuple[int, int]:
    attempt, _, seq = entry_id.partition("-")
    return int(attempt), int(seq)


def _check_log(entries: Sequence[tuple[str, bytes]]) -> Iterator[_Problem]:
    """`0-1`, then attempts without holes, each with its beginning, then one terminal entry; nothing else."""
    if not entries or entries[0][0] != "0-1" or entries[0][1][:1] != b"A":
        yield Column.LOST, "the log does not begin with the entry `accepted`"
        return
    last, seen = (0, 1), {(0, 1)}
    for text, value in entries[1:]:
        entry_id, kind = _parse(text), value[:1]
        if kind in _TERMINALS and entry_id != _TERMINAL:
            yield Column.TERMINALS, f"{text} is a terminal entry that others can follow"
        elif kind not in _TERMINALS and (problem := _misplaced(entry_id, kind, last, seen)) is not None:
            yield problem, f"the log has {text} {value[:20]!r} after {last[0]}-{last[1]}"
        seen.add(entry_id)
        last = max(last, entry_id)
    terminals = sum(value[:1] in _TERMINALS for _, value in entries)
    if terminals == 0:
        yield Column.STUCK, f"the log has no terminal entry; it ends at {entries[-1][0]}"
    elif terminals > 1:
        yield Column.TERMINALS, f"the log has {terminals} terminal entries"


def _misplaced(entry_id: _Id, kind: bytes, last: _Id, seen: set[_Id]) -> Column | None:
    """What is wrong with an entry that comes after `last`; None if it is its successor."""
    if entry_id in seen:
        return Column.DOUBLED
    if entry_id[0] < last[0]:
        return Column.LATE
    if entry_id < last:
        return Column.REORDERED
    if kind in (b"S", b"R"):
        return None if entry_id == (last[0] + 1, 0) else Column.LOST
    if kind in _CHUNKS:
        return None if last[0] > 0 and entry_id == (last[0], last[1] + 1) else Column.LOST
    return Column.WRONG


def _check_creation(evidence: Evidence) -> Iterator[_Problem]:
    """One chat per idempotency key, and no more requests to the upstream than its attempts may make."""
    if evidence.plan.is_keyed:
        if len(set(evidence.posted_ids)) > 1:
            yield Column.TWICE, f"one idempotency key gave several chats: {sorted(set(evidence.posted_ids))}"
        attempts = max((_parse(id_)[0] for id_, value in evidence.entries if value[:1] in (b"S", b"R")), default=0)
        if evidence.requests is not None and evidence.requests > attempts * (1 + UPSTREAM_RETRIES):
            yield Column.TWICE, f"{evidence.requests} requests to the upstream in {attempts} attempts"
        if evidence.responses is not None and evidence.responses > 1 and _goes_on(evidence):
            yield Column.TWICE, f"the upstream began {evidence.responses} answers"


def _goes_on(evidence: Evidence) -> bool:
    """Whether whatever befalls a request to the upstream, a later one has the rest of the same answer."""
    return evidence.is_resumable and _kind(evidence) not in _OF_THE_ANSWER


def _kind(evidence: Evidence) -> str:
    """Which fault the upstream was to have; empty if none."""
    return evidence.plan.fault["kind"] if evidence.plan.fault else ""


def _is_shown(value: bytes) -> bool:
    """Whether the JSON format has an event for this entry: not for `accepted` and for a chunk without choices."""
    if value[:1] in (b"c", b"d"):
        return bool(json.loads(value[1:]).get("choices"))
    return value[:1] != b"A"


def _check_replay(evidence: Evidence) -> Iterator[_Problem]:
    """An uncut JSON stream is the log: the same ids in the same order, of the same kinds."""
    names = {b"S": "started", b"R": "restart", **_TERMINALS}
    shown = {f"{evidence.chat_id}:{id_}": value for id_, value in evidence.entries if _is_shown(value)}
    replay = {event.id: event for event in evidence.replay if event.id is not None}
    expected = []
    for cursor, value in shown.items():
        event = replay.get(cursor, Event(cursor, "", ""))
        name = names.get(value[:1], "delta")
        if value[:1] == b"t" and event.data and json.loads(event.data) != {"content": value[1:].decode()}:
            yield Column.WRONG, f"{cursor} is {value!r} in the log, but {event.data}"
        expected.append(Event(cursor, name, event.data))
    yield from _compare(expected, evidence.replay, is_whole=True)


def _check_view(view: View, evidence: Evidence) -> Iterator[_Problem]:
    """A reader has what the replay has, from the beginning, and in the end all of it."""
    for refusal in view.refusals:
        yield (Column.LOST if refusal.startswith(("404", "410", "204")) else Column.END), f"was answered {refusal}"
    if not view.is_ended:
        yield Column.STUCK, f"has no terminal event after {len(view.events)} events"
    if evidence.is_final:
        expected = evidence.replay if view.format == "json" else list(_as_text(evidence.replay))
        yield from _compare(expected, view.events, is_whole=view.is_ended)


def _as_text(replay: Iterable[Event]) -> Iterator[Event]:
    """What the text format shows of these JSON events."""
    for event in replay:
        match event.name:
            case "delta":
                content = json.loads(event.data).get("content")
                if content:
                    yield Event(event.id, "", _LINE_BREAK.sub("\n", content))
            case "restart":
                yield Event(event.id, "restart", "")
            case "done" | "cancelled":
                yield Event(event.id, event.name, f"[{event.name.upper()}]")
            case "error":
                yield event


def _compare(expected: Sequence[Event], got: Sequence[Event], *, is_whole: bool) -> Iterator[_Problem]:
    """`got` is a prefix of `expected`, or the whole; else the first deviation of each kind."""
    places = {event.id: place for place, event in enumerate(expected)}
    found = dict[Column, str]()
    seen, highest, attempt = set[str | None](), -1, 0
    for event in got:
        place, its_attempt = places.get(event.id), _attempt_of(event)
        if event.id in seen:
            found.setdefault(Column.DOUBLED, f"{event.id} came twice")
            continue
        seen.add(event.id)
        if its_attempt < attempt:
            found.setdefault(Column.LATE, f"{event.id} came after the beginning of attempt {attempt}")
        attempt = max(attempt, its_attempt)
        if place is None:
            found.setdefault(Column.WRONG, f"{event.id} is not in the log: {event.name} {event.data[:80]!r}")
            continue
        if event != expected[place]:
            found.setdefault(Column.WRONG, f"{event.id} is {event[1:]!r}, but should be {expected[place][1:]!r}"[:400])
        if place < highest:
            found.setdefault(Column.REORDERED, f"{event.id} came after {expected[highest].id}")
        highest = max(highest, place)
    missing = [event.id for event in expected[: None if is_whole else highest + 1] if event.id not in seen]
    if missing:
        found[Column.LOST] = f"{len(missing)} events did not come, the first of them {missing[0]}"
    yield from found.items()


def _attempt_of(event: Event) -> int:
    attempt = (event.id or "").rpartition(":")[2].partition("-")[0]
    return int(attempt) if attempt.isdigit() else 0


def _check_text(evidence: Evidence) -> Iterator[_Problem]:
    """What the attempts say, one after the other, is the upstream's answer from its beginning; `done` is all of it."""
    plan, answer = evidence.plan, evidence.plan.answer
    said, has_deltas = 0, False
    for event in evidence.replay:
        data: dict[str, Any] = json.loads(event.data)
        if event.name == "delta":
            has_deltas = True
            content = data.get("content") or ""
            if not answer.startswith(content, said):
                yield Column.WRONG, f"{event.id} says {content!r} where the upstream said {answer[said : said + 20]!r}"
                return
            said += len(content)
        elif event.name in ("started", "restart"):
            if has_deltas and plan.on_worker_loss == "fail":
                yield Column.END, f"{event.id} begins an attempt in a chat that was to fail"
            may_restart = has_deltas and plan.on_worker_loss == "restart"
            if (event.name == "restart") != may_restart and not (evidence.is_resumable and event.name == "started"):
                yield Column.WRONG, f"{event.id} is a {event.name}, with on-worker-loss {plan.on_worker_loss}"
            if data.get("attempt") != _attempt_of(event):
                yield Column.WRONG, f"{event.id} says that it begins attempt {data.get('attempt')}"
            said = 0 if event.name == "restart" else said
        elif event.name == "done" and said != len(answer):
            yield Column.WRONG, f"done after {said} of {len(answer)} characters"


def _check_end(evidence: Evidence) -> Iterator[_Problem]:
    """Something explains why the chat ended as it did."""
    plan, last = evidence.plan, evidence.entries[-1][1]
    failing = plan.failing_requests
    match last[:1]:
        case b"X":
            if not evidence.cancels_sent and plan.on_disconnect != "cancel":
                yield Column.END, "cancelled, though nobody asked for it"
        case b"D" if not (_goes_on(evidence) or _is_cut_behind_the_end(evidence)):
            if failing is None:
                yield Column.END, f"done, though the upstream never finished an answer ({plan.fault})"
            elif evidence.requests is not None and evidence.requests <= failing:
                yield Column.END, f"done after {evidence.requests} requests, the first {failing} of which failed"
        case b"E":
            yield from _check_error(evidence, json.loads(last[1:]).get("error", {}).get("code"))
    if evidence.failures >= MAX_ATTEMPTS:
        yield Column.END, f"{evidence.failures} attempts failed before the last"
    end = _STATUSES[_TERMINALS[last[:1]]]
    for status in evidence.cancel_statuses:
        if status != end:
            yield Column.END, f"a cancel was answered with {status}, and the chat ended as {end}"


def _is_cut_behind_the_end(evidence: Evidence) -> bool:
    """Whether the last attempt's cut, if it had one, came after the finish_reason.

    It does when fewer deltas are left to say than are to go out before it: the simulator counts those of one request,
    and an attempt that continues has only the rest.
    """
    deltas = 0
    for event in evidence.replay:
        if event.name in ("started", "restart"):
            deltas = 0
        elif event.name == "delta" and json.loads(event.data).get("content"):
            deltas += 1
    fault = evidence.plan.fault
    return fault is not None and fault["kind"] == "cut" and deltas < fault["after"]


def _check_error(evidence: Evidence, code: object) -> Iterator[_Problem]:
    plan = evidence.plan
    kind = _kind(evidence)
    possible = _ALWAYS_POSSIBLE | (_IF_RESUMABLE if evidence.is_resumable else set())
    if code not in possible | _CAUSED_BY.get(kind, set()):
        yield Column.END, f"failed with {code}, which nothing caused"
        return
    is_refused = plan.on_worker_loss == "fail" and any(value[:1] in _CHUNKS for _, value in evidence.entries)
    is_final = code in _FINAL_AT_ONCE or kind == "status"
    if not is_refused and not is_final and evidence.failures != MAX_ATTEMPTS - 1:
        yield Column.END, f"failed with {code} after {evidence.failures + 1} failed attempts"


def _check_description(evidence: Evidence) -> Iterator[_Problem]:
    """`GET /v1/chats/{id}` says what the log says."""
    chat, replay = evidence.chat, evidence.replay
    end, text, attempts = (replay[-1] if replay else Event(None, "", "")), "", 0
    for event in replay:
        if event.name == "restart":
            text = ""
        elif event.name == "delta":
            text += json.loads(event.data).get("content") or ""
        if event.name in ("started", "restart"):
            attempts = _attempt_of(event)
    data = json.loads(end.data) if end.data else {}
    expected = {
        "id": evidence.chat_id,
        "status": _STATUSES.get(end.name),
        "attempts": attempts,
        "text": text,
        "finish_reason": data.get("finish_reason"),
        "usage": data.get("usage"),
        "error": data.get("error"),
        "cursor": f"{evidence.chat_id}:{TERMINAL_ID}",
    }
    wrong = [name for name, value in expected.items() if chat.get(name) != value]
    if wrong:
        told = {name: (str(chat.get(name))[:60], str(expected[name])[:60]) for name in wrong}
        yield Column.END, f"the chat is described otherwise than its log ends: {told}"


def _check_leaving(evidence: Evidence) -> Iterator[_Problem]:
    """A chat that is to end when it is left does so soon, and never while somebody reads it.

    Faults hide readers from the product, and the product's doings from Redis: what they may explain is not judged.
    """
    finished = evidence.chat.get("finished_at")
    if evidence.plan.on_disconnect != "cancel" or not isinstance(finished, int | float):
        return
    left, connections = evidence.left_at, [span for view in evidence.views for span in view.connections]
    if left is not None and any(began < left for began, _ in connections):
        calm = longest_calm((left, finished), evidence.disturbed)
        if calm > LEFT_LIMIT:
            yield Column.LEAVING, f"ended {finished - left:.1f} s after its last reader left, {calm:.1f} s of them calm"
    watched = (finished - READ_FOR, finished)
    if evidence.entries[-1][1][:1] == b"X" and not evidence.cancels_sent:
        is_read = any(began <= watched[0] and watched[1] <= ended for began, ended in connections)
        if is_read and longest_calm(watched, evidence.disturbed) >= watched[1] - watched[0]:
            yield Column.LEAVING, f"cancelled, though it had been read for the last {READ_FOR:g} s"


def longest_calm(within: Span, disturbed: Iterable[Span]) -> float:
    """The seconds of the longest stretch `within` that nothing disturbed."""
    calm_since, longest = within[0], 0.0
    for began, ended in sorted(disturbed):
        longest = max(longest, min(began, within[1]) - calm_since)
        calm_since = max(calm_since, ended)
    return max(longest, within[1] - calm_since)
