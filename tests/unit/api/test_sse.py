import httpx_sse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.sse import KEEP_ALIVE, Format, frame, queued_frame
from shared import events, json_text
from shared.cursor import ACCEPTED, TERMINAL, EntryId
from shared.events import Entry

CHAT = "chat_abc"
END = "chat_abc:18446744073709551615-18446744073709551615"


def text_entry(text):
    return Entry(EntryId(1, 2), b"t" + text.encode())


def chunk_entry(chunk):
    return Entry(EntryId(1, 2), b"c" + json_text.dumps(chunk))


def parse(frames):
    decoder = httpx_sse._decoders.SSEDecoder()
    lines = frames.decode().split("\n")
    return [event for line in lines[:-1] if (event := decoder.decode(line)) is not None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("や", "data: や\n"),
        (" ", "data:  \n"),
        ("a\nb", "data: a\ndata: b\n"),
        ("\n", "data: \ndata: \n"),
        ("a\r\nb\rc", "data: a\ndata: b\ndata: c\n"),
        ("\u2028\u0085", "data: \u2028\u0085\n"),
        ("data: [DONE]\n\n", "data: data: [DONE]\ndata: \ndata: \n"),
    ],
)
def test_text_becomes_one_data_line_per_line(text, expected):
    assert frame(CHAT, text_entry(text), Format.TEXT).decode() == f"id: chat_abc:1-2\n{expected}\n"


@given(st.text().filter(bool))
def test_an_independent_decoder_reads_the_text_with_line_breaks_folded(text):
    (event,) = parse(frame(CHAT, text_entry(text), Format.TEXT))
    assert event.data == text.replace("\r\n", "\n").replace("\r", "\n")
    assert event.id == "chat_abc:1-2"
    assert event.event == "message"


@given(st.dictionaries(st.text(), st.text()))
def test_json_loses_nothing(delta):
    (event,) = parse(frame(CHAT, chunk_entry({"choices": [{"delta": delta}]}), Format.JSON))
    assert event.event == "delta"
    assert json_text.loads(event.data.encode()) == delta


@pytest.mark.parametrize("delta", [{}, {"role": "assistant", "content": ""}, {"content": None}, {"tool_calls": []}])
def test_a_delta_without_text_is_seen_in_json_only(delta):
    entry = chunk_entry({"choices": [{"delta": delta}]})
    assert frame(CHAT, entry, Format.TEXT) == b""
    assert json_text.loads(parse(frame(CHAT, entry, Format.JSON))[0].data.encode()) == delta


def test_a_lone_surrogate_is_escaped_in_json_and_replaced_in_text():
    entry = chunk_entry({"choices": [{"delta": {"content": "a\ud83d"}}]})
    assert b'{"content":"a\\ud83d"}' in frame(CHAT, entry, Format.JSON)
    assert frame(CHAT, entry, Format.TEXT) == b"id: chat_abc:1-2\ndata: a?\n\n"


@pytest.mark.parametrize("chunk", [{"choices": [], "usage": {}}, {}, {"choices": "x"}, {"choices": [1]}])
def test_a_chunk_without_a_choice_is_no_event(chunk):
    assert frame(CHAT, chunk_entry(chunk), Format.TEXT) == b""
    assert frame(CHAT, chunk_entry(chunk), Format.JSON) == b""


@pytest.mark.parametrize(
    ("entry", "text", "json"),
    [
        (Entry(ACCEPTED, events.accepted()), "", ""),
        (
            Entry(EntryId(1, 0), b'S{"model":"m","token":"t"}'),
            "",
            'event: started\nid: chat_abc:1-0\ndata: {"attempt":1,"model":"m"}\n\n',
        ),
        (
            Entry(EntryId(2, 0), b'R{"reason":"worker_lost","token":"t"}'),
            "event: restart\nid: chat_abc:2-0\ndata: \n\n",
            'event: restart\nid: chat_abc:2-0\ndata: {"attempt":2,"reason":"worker_lost"}\n\n',
        ),
        (
            Entry(TERMINAL, events.done("stop", None)),
            f"event: done\nid: {END}\ndata: [DONE]\n\n",
            f'event: done\nid: {END}\ndata: {{"finish_reason":"stop","usage":null}}\n\n',
        ),
        (
            Entry(TERMINAL, events.cancelled()),
            f"event: cancelled\nid: {END}\ndata: [CANCELLED]\n\n",
            f"event: cancelled\nid: {END}\ndata: {{}}\n\n",
        ),
    ],
)
def test_named_events_are_these_bytes(entry, text, json):
    assert frame(CHAT, entry, Format.TEXT).decode() == text
    assert frame(CHAT, entry, Format.JSON).decode() == json


@pytest.mark.parametrize("format_", Format)
def test_an_error_is_the_envelope_in_both_formats(format_):
    (event,) = parse(frame(CHAT, Entry(TERMINAL, events.error("no", "t", "c")), format_))
    assert event.event == "error"
    assert json_text.loads(event.data.encode()) == {"error": {"message": "no", "type": "t", "param": None, "code": "c"}}


def test_a_place_in_the_queue_has_no_id():
    assert queued_frame(3) == b'event: queued\ndata: {"position":3}\n\n'


def test_a_keep_alive_dispatches_nothing():
    assert parse(KEEP_ALIVE + b"") == []
    assert KEEP_ALIVE == b": keep-alive\n"


@pytest.mark.parametrize("format_", Format)
def test_what_the_upstream_said_beside_its_error_is_not_shown(format_):
    told = frame(CHAT, Entry(TERMINAL, events.error("no", "t", "c", status=429, retry_after=1)), format_)
    assert told == frame(CHAT, Entry(TERMINAL, events.error("no", "t", "c")), format_)
