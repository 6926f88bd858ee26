"""One replica and the simulator, as clients see them."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from harness.polling import wait_until
from harness.sse import Event, EventParser

Json = dict[str, Any]

MESSAGES = [{"role": "user", "content": "やっほ"}]


def body(script: Json | None = None, **fields: Any) -> Json:
    """A chat to post; `script` tells the simulator what to answer, at once unless it says otherwise."""
    return {"messages": MESSAGES, "simulator": {"ttft": 0, "interval": 0, **(script or {})}, **fields}


def numbered(count: int) -> list[str]:
    """So many different deltas."""
    return [f"{number} " for number in range(count)]


class Reading:
    """One stream while it is read."""

    def __init__(self, response: httpx.Response, pieces: AsyncIterator[bytes]):
        self.response = response
        self.received = b""
        self._pieces = pieces
        self._parser = EventParser()

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def chat_id(self) -> str:
        return self.response.headers["x-chat-id"]

    @property
    def events(self) -> list[Event]:
        """The complete events so far."""
        return self._parser.events

    @property
    def comments(self) -> list[bytes]:
        return self._parser.comments

    @property
    def ends_between_events(self) -> bool:
        return self.received == b"" or self.received.endswith((b"\n\n", b": keep-alive\n"))

    async def until(self, condition: Callable[["Reading"], object]) -> "Reading":
        """Read on until `condition` is true of what there is."""
        while not condition(self):
            self._take(await anext(self._pieces))
        return self

    async def first(self, count: int) -> list[Event]:
        """The first `count` events; read on if there are not as many yet."""
        await self.until(lambda reading: len(reading.events) >= count)
        return self.events[:count]

    async def rest(self) -> "Reading":
        """Read to the end."""
        async for piece in self._pieces:
            self._take(piece)
        return self

    def _take(self, piece: bytes) -> None:
        self.received += piece
        self._parser.feed(piece)


class Client:
    """Talks to one replica."""

    def __init__(self, http: httpx.AsyncClient):
        self.http = http

    @asynccontextmanager
    async def open(self, method: str, path: str, **options: Any) -> AsyncIterator[Reading]:
        async with (
            self.http.stream(method, path, **options) as response,
            aclosing(response.aiter_raw()) as pieces,
        ):
            yield Reading(response, pieces)

    def posting(self, content: Json, *, form: str = "text", **headers: str):
        """Create a chat and stream it."""
        return self.open("POST", "/v1/chat/stream", json=content, params={"format": form}, headers=_named(headers))

    def following(self, chat_id: str, *, form: str = "text", cursor: str | None = None):
        """Stream a chat, from after `cursor`."""
        headers = {"Last-Event-ID": cursor} if cursor else {}
        return self.open("GET", f"/v1/chats/{chat_id}/stream", params={"format": form}, headers=headers)

    async def ask(self, content: Json, **options: Any) -> Reading:
        """Create a chat and read its stream to the end."""
        async with self.posting(content, **options) as reading:
            return await reading.rest()

    async def read(self, chat_id: str, **options: Any) -> Reading:
        """Read a chat's stream to the end."""
        async with self.following(chat_id, **options) as reading:
            return await reading.rest()

    async def create(self, content: Json, **headers: str) -> Json:
        """Create a chat without reading it."""
        answer = await self.http.post("/v1/chats", json=content, headers=_named(headers))
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def chat(self, chat_id: str) -> Json:
        answer = await self.http.get(f"/v1/chats/{chat_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def chat_when(self, chat_id: str, status: str, *, within: float = 10.0) -> Json:
        """The chat, once it has that status."""

        async def has_status() -> Json | None:
            chat = await self.chat(chat_id)
            return chat if chat["status"] == status else None

        return await wait_until(has_status, within)

    async def cancel(self, chat_id: str) -> Json:
        answer = await self.http.post(f"/v1/chats/{chat_id}/cancel")
        assert answer.status_code == 200, answer.text
        return answer.json()


class Simulator:
    """What the simulator remembers of the requests it got."""

    def __init__(self, http: httpx.AsyncClient):
        self._http = http

    async def requests(self, key: str) -> list[Json]:
        """The requests whose script has that key, oldest first."""
        records = (await self._http.get("/simulator/requests")).json()
        return [record for record in records if record["key"] == key]

    async def request(self, key: str) -> Json:
        """The only request of that key."""
        (record,) = await self.requests(key)
        return record

    async def outcome(self, key: str, *, within: float = 5.0) -> str:
        """How the only request of that key ended, once it has."""

        async def ended() -> str | None:
            record = await self.request(key)
            return record["outcome"] if record["closed_at"] else None

        return await wait_until(ended, within)

    async def responses(self, key: str) -> list[Json]:
        """What was generated for that key behind `/v1/responses`, oldest first."""
        return (await self._http.get("/simulator/responses", params={"key": key})).json()

    async def response(self, key: str) -> Json:
        """The only response of that key."""
        (response,) = await self.responses(key)
        return response

    async def forget_responses(self) -> None:
        """Have the simulator know no response any more."""
        await self._http.delete("/simulator/responses")

    async def running(self, key: str) -> int:
        """How many requests of that key are being answered."""
        return sum(record["outcome"] == "running" for record in await self.requests(key))


def _named(headers: dict[str, str]) -> dict[str, str]:
    """Header names from keyword arguments."""
    return {name.replace("_", "-"): value for name, value in headers.items()}
