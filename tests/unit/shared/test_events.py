import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events, json_text
from shared.cursor import ACCEPTED, TERMINAL, EntryId
from shared.events import ChunkEncoder, Entry, Kind, Transcript, first_choice, restore_chunks

ENVELOPE = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "gpt-4o-mini",
    "system_fingerprint": "fp_1",
}


def chunk(delta, finish_reason=None, **further):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**ENVELOPE, "choices": [choice], **further}


def log_of(chunks, attempt=1):
    encoder = ChunkEncoder()
    return [Entry(EntryId(attempt, seq), encoder.encode(item)) for seq, item in enumerate(chunks, start=1)]


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.0, 1.0, -1.5]) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "content", "delta"]), inner, max_size=2)
    ),
    max_leaves=5,
)
DELTAS = st.dictionaries(st.sampled_from(["content", "role", "tool_calls"]), VALUES, max_size=2) | st.builds(
    lambda text: {"content": text}, st.text(st.characters(exclude_categories=[]), max_size=4)
)
CHUNKS = st.dictionaries(st.sampled_from(["id", "model", "usage", "x"]), VALUES, max_size=3).flatmap(
    lambda members: st.one_of(
        st.just(members),
        VALUES.map(lambda choices: {**members, "choices": choices}),
        DELTAS.map(lambda delta: {**members, "choices": [{"index": 0, "delta": delta}]}),
        st.lists(DELTAS, max_size=3).map(lambda ds: {**members, "choices": [{"delta": d} for d in ds]}),
    )
)


@given(st.lists(CHUNKS, max_size=6))
def test_every_chunk_is_restored_whatever_its_shape(chunks):
    restored = list(restore_chunks(log_of(chunks)))
    assert [json_text.dumps(_sorted(c)) for c in restored] == [json_text.dumps(_sorted(c)) for c in chunks]


def _sorted(chunk):
    return dict(sorted(chunk.items()))


@given(st.lists(CHUNKS, max_size=6))
def test_a_delta_is_read_from_its_own_entry_alone(chunks):
    for entry, original in zip(log_of(chunks), chunks, strict=True):
        assert entry.delta() == events.first_delta(original)


def test_attempts_are_restored_each_with_its_own_envelope():
    first = [chunk({"role": "assistant"}), chunk({"content": "a"})]
    second = [chunk({"role": "assistant"}, id="chatcmpl-2"), chunk({"content": "b"}, id="chatcmpl-2")]
    assert list(restore_chunks(log_of(first, 1) + log_of(second, 2))) == first + second


def test_a_text_chunk_costs_its_text_and_one_byte():
    entries = log_of([chunk({"role": "assistant", "content": ""}), chunk({"content": "やっほ"})])
    assert entries[1].value == b"t" + "やっほ".encode()


@pytest.mark.parametrize(
    "changed",
    [
        chunk({"content": "x"}, finish_reason="stop"),
        chunk({"content": "x"}, obfuscation="abc"),
        chunk({"content": "x"}, created=1_700_000_000.0),
        chunk({"content": "x", "refusal": None}),
        chunk({"content": None}),
        chunk({"content": "\ud83d"}),
    ],
)
def test_a_chunk_that_says_more_than_text_keeps_what_it_says(changed):
    entries = log_of([chunk({"role": "assistant", "content": ""}), changed])
    assert entries[1].kind is Kind.PARTIAL_CHUNK
    assert json_text.dumps(list(restore_chunks(entries))[1]["created"]) == json_text.dumps(changed["created"])
    assert list(restore_chunks(entries))[1] == changed


def test_a_restart_drops_the_text_before_it_and_a_start_continues_it():
    first, second = log_of([chunk({"content": "one"})], 1), log_of([chunk({"content": "two"})], 2)
    opening = [Entry(ACCEPTED, events.accepted()), Entry(EntryId(1, 0), b"S{}")]
    restarted = [*opening, *first, Entry(EntryId(2, 0), b"R{}"), *second]
    continued = [*opening, *first, Entry(EntryId(2, 0), b"S{}"), *second]
    assert Transcript.of(restarted).text == "two"
    assert Transcript.of(continued).text == "onetwo"


def test_a_transcript_knows_its_top_and_its_end():
    entries = [Entry(ACCEPTED, events.accepted()), Entry(TERMINAL, events.done("stop", None))]
    assert Transcript.of(entries[:1]).top == ACCEPTED
    assert Transcript.of(entries[:1]).terminal is None
    assert Transcript.of(entries).terminal == entries[1]


def several(*deltas):
    """A chunk with a delta for each of these choices."""
    return {**ENVELOPE, "choices": [{"index": index, "delta": delta} for index, delta in deltas]}


def test_text_of_another_choice_than_the_first_is_not_the_chats():
    chunks = [several((index, {"content": text})) for index, text in [(1, "x"), (1, "y"), (0, "a"), (1, "z"), (0, "b")]]
    entries = log_of(chunks)
    assert Kind.TEXT_CHUNK not in [entry.kind for entry in entries]
    assert list(restore_chunks(entries)) == chunks
    assert Transcript.of(entries).text == "ab"
    assert [entry.delta() for entry in entries] == [None, None, {"content": "a"}, None, {"content": "b"}]


def test_the_first_choice_is_the_one_of_index_0_wherever_it_stands():
    assert first_choice(several((1, {}), (0, {"content": "a"})))["delta"] == {"content": "a"}
    assert first_choice({"choices": [{"delta": {}}]}) == {"delta": {}}
    assert first_choice(several((2, {}))) is None


def test_a_failure_may_say_what_the_upstream_said_of_it():
    plain = Entry(TERMINAL, events.error("m", "t", "c")).payload()
    assert plain == {"error": {"message": "m", "type": "t", "param": None, "code": "c"}}
    told = Entry(TERMINAL, events.error("m", "t", "c", status=429, retry_after=1.5)).payload()
    assert told == {**plain, "status": 429, "retry_after": 1.5}
