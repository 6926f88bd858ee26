"""The short cut gives what the long way gives, whatever the chunks are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import json_text
from worker.generate import Answer
from worker.template import TextTemplate
from worker.upstream import UpstreamError


class Blind(TextTemplate):
    """Knows no short cut."""

    def text_of(self, raw):
        return None


def outcome(raws, template):
    """What an answer made of these chunks is, entry by entry, and when it failed."""
    answer, entries = Answer(template=template), []
    for raw in raws:
        try:
            entries.append(answer.take(raw))
        except UpstreamError as error:
            entries.append(error.message)
    return entries, answer.finish_reason, answer.usage, answer.size


TEXT = st.text(max_size=4) | st.sampled_from(["\ud83d", '"', "\\", '","content":"', "\u2028", "\x7f", "é", "😀", "\n"])
DELTA = st.dictionaries(st.sampled_from(["content", "role", "refusal", "delta"]), TEXT | st.none(), max_size=3)
CHOICE = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 0, 0, False, 0.0]), "delta": DELTA},
    optional={"finish_reason": st.sampled_from([None, "stop", 7]), "content": TEXT},
)
CHUNK = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, min_size=1, max_size=2) | st.none()},
    optional={
        "id": st.sampled_from(["a", 1, True, 1.0]),
        "content": TEXT,
        "usage": st.sampled_from([None, {"n": 1}]),
        "error": st.none() | TEXT,
    },
)


@st.composite
def plain(draw):
    """One as most are."""
    text = json.dumps(draw(TEXT), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    space = draw(st.sampled_from([b"", b"", b" ", b"\n"]))
    further = draw(st.sampled_from([b"", b"", b',"content":"y"', b',"content" : ""', b',"role":"content"']))
    front = draw(st.sampled_from([b"", b"", b'"content":"x",']))
    return b'{"id":1,"choices":[{"index":0,"delta":{%b"content":%b%b%b}}]}' % (front, space, text, further)


@st.composite
def damaged(draw):
    """One with a byte that should not be there."""
    raw = draw(plain())
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.sampled_from([b"", b'"', b"\\", b"\x00", b"\xff", b"}", b"x"])) + raw[at + 1 :]


def dumped(chunk):
    return json.dumps(chunk).encode()


RAWS = st.lists(plain() | plain() | damaged() | CHUNK.map(dumped), max_size=8)


@given(RAWS)
def test_the_short_cut_leads_where_the_long_way_leads(raws):
    assert outcome(raws, TextTemplate()) == outcome(raws, Blind())


def chunk(text):
    return b'{"id":"x","choices":[{"delta":{"content":%b},"index":0}]}' % json_text.dumps(text)


def test_a_repeated_chunk_takes_the_short_cut():
    template, answer = TextTemplate(), None
    answer = Answer(template=template)
    for text in ("a", "b"):
        answer.take(chunk(text))
    assert template.text_of(chunk("やっほ\n")) == "やっほ\n".encode()
    assert answer.take(chunk("c")) == b"tc"


@pytest.mark.parametrize("text", [b'"a" ', b' "a"', b'"a"b"', b'"\xff"', b'"\\ud83d"', b"5", b"null", b'"\n"', b'"'])
def test_only_a_string_is_taken_for_the_text(text):
    template = TextTemplate()
    template.learn(chunk("a"), json_text.loads(chunk("a")))
    before, after = chunk("").split(b'""')
    expected = b"a" if text.strip() == b'"a"' else None
    assert template.text_of(before + text + after) == expected


def test_an_upstream_whose_chunks_never_repeat_is_not_studied_for_ever():
    template = TextTemplate()
    for n in range(10):
        raw = b" " * n + chunk("a")
        template.learn(raw, json_text.loads(raw))
    assert template.text_of(b" " * 9 + chunk("a")) is None
