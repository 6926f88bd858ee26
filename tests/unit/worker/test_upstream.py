import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.upstream import DataDecoder, UpstreamError, backoff, retry_after

DATA = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=5)


def feed_in_pieces(stream, cuts):
    decoder, events, start = DataDecoder(), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        events += decoder.feed(stream[start:cut])
        start = max(start, cut)
    return decoder, events


@given(DATA, st.sampled_from(["\n", "\r\n"]), st.sets(st.integers(0, 200)), st.sampled_from(["data:", "data: "]))
def test_any_byte_split_gives_the_same_data(items, end, cuts, field):
    items = [item for item in items if not (field == "data:" and item.startswith(" ")) and item != "[DONE]"]
    stream = "".join(f": comment{end}event: x{end}{field}{item}{end}{end}" for item in items).encode()
    _, events = feed_in_pieces(stream, {min(cut, len(stream)) for cut in cuts})
    assert events == [item.encode() for item in items]


def test_nothing_after_done_is_read():
    decoder = DataDecoder()
    assert decoder.feed(b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n") == [b"1"]
    assert decoder.is_done
    assert decoder.feed(b"data: 3\n\n") == []


def test_data_of_several_lines_is_joined_and_an_unfinished_event_is_dropped():
    decoder = DataDecoder()
    assert decoder.feed(b"data: a\ndata: b\n\ndata: c\n") == [b"a\nb"]


def test_an_endless_line_is_an_error():
    decoder = DataDecoder()
    with pytest.raises(UpstreamError):
        decoder.feed(b"x" * 40_000_000)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("2", 2),
        ("0.5", 0.5),
        ("-1", 0),
        ("1000000", 60),
        ("nonsense", None),
        ("nan", None),
        ("Thu, 01 Jan 1970 00:01:50 GMT", 10),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_a_number_or_a_date(header, seconds):
    assert retry_after(header, now=100) == seconds


def test_backoff_grows_and_is_bounded():
    assert [0.75 * 0.5 * 2**n <= backoff(n) <= 0.5 * 2**n for n in range(5)] == [True] * 5
    assert backoff(50) <= 8
