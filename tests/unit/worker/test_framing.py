"""The short cut past the parser: that it takes what is plain, leaves what is not, and nobody can tell."""

import asyncio
import itertools

import pytest
from aiohttp.client_proto import ResponseHandler
from harness.scripted_server import CHUNKED, END, piece
from hypothesis import given
from hypothesis import strategies as st

from worker.framing import unframed
from worker.upstream import _Body

ONE = b"data: 1\n\n"


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (piece(ONE), ONE),
        (piece(ONE) + piece(b"a\r\nb"), ONE + b"a\r\nb"),
        (b"0A\r\n0123456789\r\n", b"0123456789"),
        (b"", None),
        (END, None),
        (piece(ONE) + END, None),
        (piece(ONE)[:-1], None),
        (piece(ONE) + b"3\r\nab\r\n", None),
        (piece(ONE)[1:], None),
        (b"3;name=value\r\nabc\r\n", None),
        (b"+3\r\nabc\r\n", None),
        (b"0x3\r\nabc\r\n", None),
        (b"3\nabc\r\n", None),
        (b"2\r\nabc\r\n", None),
        (b"fffffffff\r\nabc\r\n", None),
    ],
)
def test_only_whole_plain_chunks_are_taken(data, body):
    assert unframed(data) == body


class Transport(asyncio.Transport):
    """One end of a connection whose bytes come from the test."""

    def __init__(self):
        super().__init__()
        self.protocol = None
        self.is_paused = False

    def get_protocol(self):
        return self.protocol

    def set_protocol(self, protocol):
        self.protocol = protocol

    def is_closing(self):
        return False

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False

    def get_extra_info(self, name, default=None):
        return default


class Response:
    """As much of aiohttp's as a body needs."""

    def __init__(self, content, protocol, transport):
        self.content = content
        self.connection = self
        self.protocol = protocol
        self.transport = transport

    def close(self):
        """Nothing is held."""


class ChoosySink:
    """Is full after every so many reads, until it was waited for."""

    def __init__(self, patience):
        self.chunks = []
        self._patience = patience
        self._taken = 0

    def take(self, chunks):
        self.chunks += chunks
        self._taken += 1
        return self._taken % self._patience > 0

    async def room(self):
        await asyncio.sleep(0)


async def pass_on(head, reads, sink, pauses):
    """Have a body pass an answer on that comes in these reads, the first of them with the headers."""
    protocol, transport = ResponseHandler(asyncio.get_running_loop()), Transport()
    protocol.connection_made(transport)
    transport.protocol = protocol
    protocol.set_response_params(read_until_eof=True, auto_decompress=True)
    protocol.data_received(head)
    _, content = await protocol.read()
    passing = asyncio.create_task(_Body(Response(content, protocol, transport), sink, 5.0).pass_on())
    for read, pause in zip(reads, pauses, strict=True):
        for _ in range(pause):
            await asyncio.sleep(0)
        transport.protocol.data_received(read)
    await passing
    assert content.is_eof()


texts = st.text(st.sampled_from("aé\t;0:は"), max_size=12)


@given(st.data())
async def test_an_answer_is_the_same_whatever_reads_it_comes_in(data):
    events = [f"x{text}".encode() for text in data.draw(st.lists(texts, min_size=3, max_size=12))]
    stream = b"".join(b"data: %b\n\n" % event for event in [*events, b"[DONE]"])
    framed, chunk_ends, at = b"", [], 0
    sizes = data.draw(st.sampled_from([(0,), (0, 0, 0, 1, 7, 40)]))  # 0: to the end of the event
    while at < len(stream):
        rest_of_event = stream.find(b"\n\n", at) + 2 - at
        size = data.draw(st.sampled_from(sizes)) or max(rest_of_event, 1)
        extension = data.draw(st.sampled_from([b"", b"", b"", b";a=b"]))
        body = stream[at : at + size]
        framed += b"%x%b\r\n%b\r\n" % (len(body), extension, body)
        chunk_ends.append(len(framed))
        at += size
    framed += END
    anywhere = data.draw(st.lists(st.integers(1, len(framed) - 1), max_size=2))
    cuts = [0, *sorted({*chunk_ends[:: data.draw(st.integers(1, 3))], *anywhere}), len(framed)]
    first, *reads = [framed[start:end] for start, end in itertools.pairwise(cuts)]
    pauses = data.draw(st.lists(st.integers(0, 3), min_size=len(reads), max_size=len(reads)))
    sink = ChoosySink(data.draw(st.sampled_from([1, 3, 1000])))
    await pass_on(CHUNKED % b"" + first, reads, sink, pauses)
    assert sink.chunks == events


async def test_a_size_line_in_two_reads_is_not_taken_for_a_shorter_one():
    odd = piece(b"da\r\ndata: 345678\n\n")
    assert odd.startswith(b"12\r\n")
    assert unframed(odd[1:8]) == b"da"
    sink = ChoosySink(1000)
    await pass_on(CHUNKED % b"" + piece(ONE), [piece(ONE), b"1", odd[1:8], odd[8:], END], sink, [1] * 5)
    assert sink.chunks == [b"1", b"1", b"345678"]
