import pytest

from bench.compare.received import read, read_prose, refusal

END = b"event: done\ndata: [DONE]\n\n"


def delta(number, moment=0, id_=None):
    line = f"id: {id_}\n" if id_ else ""
    return f"{line}data: {number:07d} {moment:019d}\n\n".encode()


def response(*pieces, head=b"HTTP/1.1 200 OK\r\nX-Chat-Id: chat_a\r\n\r\n"):
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def test_each_delta_has_the_moment_of_the_read_that_completed_it():
    raw = response(delta(0, 5) + delta(1, 6), delta(2, 7), END)
    reads = list(enumerate(raw[i : i + 1] for i in range(len(raw))))
    answer = read(reads, 3)
    ends = [raw.index(delta(number, 5 + number)) + len(delta(0)) - 1 for number in range(3)]
    assert (answer.fault, answer.has_ended, answer.chat_id) == (None, True, "chat_a")
    assert (answer.sent, answer.arrived) == ([5, 6, 7], ends)


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_the_framing_is_invisible_at_any_split(size):
    body = b"".join(delta(number, id_=f"chat_a:1-{number + 2}") for number in range(9)) + END
    raw = response(*(body[i : i + size] for i in range(0, len(body), size)))
    answer = read([(1, raw[:size]), (2, raw[size:])], 9)
    assert (answer.fault, answer.has_ended, len(answer.ids)) == (None, True, 9)


def test_an_answer_that_was_left_early_is_unfinished_but_not_wrong():
    raw = response(delta(0), delta(1), END)
    for end in range(len(raw)):
        answer = read([(1, raw[:end])], 2)
        assert (answer.fault, answer.has_ended) == (None, False)


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ((delta(0), delta(2), END), "delta 2 came where 1 was due"),
        ((delta(0), delta(0), END), "delta 0 came where 1 was due"),
        ((delta(0), END), "it ended at delta 1 of 2"),
        ((delta(0), delta(1)), "it was closed at delta 2 of 2"),
        ((delta(0), b"data: x\n\n", delta(1), END), "these bytes are no event"),
        ((delta(0), delta(1), END, delta(2)), "these bytes are no event"),
        ((delta(0), b"event: error\ndata: {}\n\n"), "these bytes are no event"),
        ((delta(0, id_="a:1-2"), delta(1, id_="a:1-2"), END), "does not follow"),
    ],
)
def test_what_is_wrong_is_said(pieces, fault):
    assert fault in (read([(1, response(*pieces))], 2).fault or "")


def test_another_status_is_a_fault():
    raw = response(head=b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    assert "503" in (read([(1, raw)], 1).fault or "")


def test_a_resume_begins_where_it_asked():
    assert read([(1, response(delta(5), delta(6), END))], 7, first=5).fault is None


def test_keep_alives_are_no_deltas():
    raw = response(delta(0), b": keep-alive\n", delta(1), b": keep-alive\n\n", END)
    assert read([(1, raw)], 2).fault is None


def test_the_upstreams_own_events_are_deltas_too():
    def event(content):
        return b'data: {"id":"x","choices":[{"delta":{"content":"%b"}}]}\n\n' % content

    raw = response(event(b""), event(delta(0, 3)[6:-2]), event(b""), b"data: [DONE]\n\n")
    answer = read([(1, raw)], 1)
    assert (answer.fault, answer.sent, answer.has_ended) == (None, [3], True)


def test_a_json_reader_sees_its_place_fall():
    def event(name, data, id_=None):
        return f"event: {name}\n{f'id: {id_}' + chr(10) if id_ else ''}data: {data}\n\n".encode()

    raw = response(
        event("queued", '{"position":3}'),
        event("queued", '{"position":1}'),
        event("started", '{"attempt":1,"model":"m"}', "chat_a:1-0"),
        event("delta", '{"role":"assistant","content":"","refusal":null}', "chat_a:1-1"),
        event("delta", f'{{"content":"{0:07d} {5:019d}"}}', "chat_a:1-2"),
        event("delta", "{}", "chat_a:1-3"),
        event("done", '{"finish_reason":"stop","usage":null}', "chat_a:9-9"),
    )
    answer = read([(1, raw)], 1)
    assert (answer.fault, answer.sent, answer.has_ended, answer.positions) == (None, [5], True, [3, 1])


def prose(*texts):
    return [b"id: a:1-1\ndata: %b\n\n" % text for text in texts]


def test_prose_is_compared_to_the_last_byte():
    raw = response(*prose(b"A", b" few", b" wor"), b": keep-alive\n", *prose(b"ds."), END)
    assert read_prose([(1, raw)], b"A few words.").fault is None
    assert read_prose([(1, raw)], b"A few words.").has_ended
    assert "another one" in (read_prose([(1, raw)], b"A few words,").fault or "")
    assert not read_prose([(1, raw[:-20])], b"A few words.").has_ended


def test_an_event_that_is_no_text_is_a_fault():
    raw = response(*prose(b"A"), b"event: error\ndata: {}\n\n", END)
    assert "another one" in (read_prose([(1, raw)], b"A").fault or "")


def test_a_refusal_says_when_to_come_back():
    raw = response(head=b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\n\r\n")
    assert refusal([(1, raw)]) == (429, 5)
    assert refusal([(1, response())]) == (200, None)
    assert refusal([]) == (0, None)
