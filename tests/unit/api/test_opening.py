import asyncio

import pytest
from starlette.requests import ClientDisconnect

from api.errors import ApiError, unanswered
from api.opening import unless_left, wait_for_answer
from shared import events
from shared.cursor import ACCEPTED, START, TERMINAL, EntryId
from shared.events import Entry

ACCEPTED_ENTRY = Entry(ACCEPTED, events.accepted())
FIRST = Entry(EntryId(1, 1), b"ta")
REFUSAL = Entry(TERMINAL, events.error("no", "invalid_request_error", "bad", status=400))


class Numbers:
    """An encoder that frames the ids of its entries."""

    is_shared = shows_places = is_over = False

    def frame(self, entry):
        return f"{entry.id} ".encode()

    def interrupted(self):
        return b""


class FakeFollower:
    """Gives its encoder what the test puts into the log."""

    def __init__(self):
        self.encoder = Numbers()
        self.log = asyncio.Queue()
        self.is_closed = False

    async def next(self, patience):
        try:
            async with asyncio.timeout(patience):
                while not self.encoder.is_over:
                    entry = await self.log.get()
                    if entry is None:
                        return None
                    if frames := self.encoder.frame(entry):
                        return frames
        except TimeoutError:
            return b""
        return None

    def close(self):
        self.is_closed = True


class FakeRequest:
    """A request whose client leaves when the test says so."""

    def __init__(self):
        self.left = asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}


def waiting(follower, *entries, request=None, since=START, patience=60):
    for entry in entries:
        follower.log.put_nowait(entry)
    headers = {"X-Chat-Id": "chat_abc"}
    return wait_for_answer(request or FakeRequest(), follower, since=since, patience=patience, headers=headers)


async def test_the_first_chunk_opens_the_stream():
    follower = FakeFollower()
    opening = asyncio.create_task(waiting(follower, ACCEPTED_ENTRY))
    await asyncio.sleep(0.01)
    assert not opening.done()
    follower.log.put_nowait(FIRST)
    assert await opening == b"0-1 1-1 "
    assert isinstance(follower.encoder, Numbers)
    assert not follower.is_closed


async def test_chunks_of_before_do_not_open_it():
    follower, late = FakeFollower(), Entry(EntryId(2, 1), b"tb")
    assert await waiting(follower, FIRST, Entry(EntryId(2, 0), b"R{}"), late, since=EntryId(2, 0)) == b"1-1 2-0 2-1 "


async def test_a_refusal_is_an_http_error():
    follower = FakeFollower()
    with pytest.raises(ApiError) as caught:
        await waiting(follower, ACCEPTED_ENTRY, REFUSAL)
    assert (caught.value.status, caught.value.code) == (400, "bad")
    assert caught.value.headers == {"X-Chat-Id": "chat_abc", "x-should-retry": "false"}
    assert follower.is_closed


async def test_after_a_while_the_stream_is_opened_anyway():
    follower = FakeFollower()
    assert await waiting(follower, ACCEPTED_ENTRY, patience=0.01) == b"0-1 "
    assert not follower.is_closed


async def test_a_stream_that_ends_meanwhile_is_opened():
    assert await waiting(FakeFollower(), ACCEPTED_ENTRY, None) == b"0-1 "


async def test_nothing_is_done_for_a_client_that_has_left():
    follower, request = FakeFollower(), FakeRequest()
    request.left.set()
    with pytest.raises(ClientDisconnect):
        await waiting(follower, ACCEPTED_ENTRY, request=request)
    assert follower.is_closed


async def test_work_that_fails_fails():
    async def work():
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # it has no message
        await unless_left(FakeRequest(), work())


STATUSES = [
    (REFUSAL.value, 400),
    (events.error("", "t", "c", status=404), 404),
    (events.error("", "t", "c", status=401), 502),
    (events.error("", "t", "c", status=500), 502),
    (events.error("", "t", "c", status=504), 504),
    (events.error("", "invalid_request_error", "c"), 400),
    (events.error("", "invalid_request_error", "c", status=403), 502),
    (events.error("", "server_error", "worker_lost"), 502),
    (events.error("", "server_error", "job_timeout"), 504),
    (events.error("", "server_error", "queue_timeout"), 504),
    (events.error("", "upstream_error", "upstream_stalled"), 504),
    (events.cancelled(), 409),
]


@pytest.mark.parametrize(("terminal", "status"), STATUSES)
def test_every_end_without_an_answer_has_its_status_and_is_not_tried_again(terminal, status):
    error = unanswered(Entry(TERMINAL, terminal))
    assert (error.status, error.headers) == (status, {"x-should-retry": "false"})


@pytest.mark.parametrize(("seconds", "header"), [(None, "1"), (0.2, "1"), (2.1, "3")])
def test_too_many_requests_say_when_to_try_again(seconds, header):
    error = unanswered(Entry(TERMINAL, events.error("", "t", "c", status=429, retry_after=seconds)))
    assert (error.status, error.headers) == (429, {"Retry-After": header})
