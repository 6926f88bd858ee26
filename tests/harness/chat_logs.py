"""Logs made by hand, entry by entry, as workers and scripts write them."""

from typing import Any

from shared import events, json_text
from shared.cursor import ACCEPTED, TERMINAL, EntryId
from shared.events import ChunkEncoder, Entry, Kind

Json = dict[str, Any]

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


class LogBuilder:
    """A log that grows; every method gives the builder, so that calls can be chained."""

    def __init__(self) -> None:
        self.entries = [Entry(ACCEPTED, events.accepted())]
        self._attempt = self._seq = 0
        self._encoder = ChunkEncoder()

    def _begin(self, kind: Kind, payload: Json) -> "LogBuilder":
        self._attempt += 1
        self._seq = 0
        self._encoder = ChunkEncoder()
        self.entries.append(Entry(EntryId(self._attempt, 0), kind.value + json_text.dumps(payload)))
        return self

    def started(self) -> "LogBuilder":
        return self._begin(Kind.STARTED, {"model": "m", "token": "t"})

    def restarted(self) -> "LogBuilder":
        return self._begin(Kind.RESTART, {"reason": "worker_lost", "token": "t"})

    def chunk(self, chunk: Json) -> "LogBuilder":
        self._seq += 1
        self.entries.append(Entry(EntryId(self._attempt, self._seq), self._encoder.encode(chunk)))
        return self

    def delta(self, delta: Json, *, logprobs: Json | None = None, **top: Any) -> "LogBuilder":
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m-1"}
        return self.chunk({**head, "choices": [choice], **top})

    def role(self) -> "LogBuilder":
        return self.delta({"role": "assistant", "content": ""})

    def texts(self, *texts: str) -> "LogBuilder":
        for text in texts:
            self.delta({"content": text})
        return self

    def call(self, index: int, arguments: str = "", name: str | None = None, id_: str | None = None) -> "LogBuilder":
        function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
        call = {"index": index, "id": id_, "type": "function", "function": function}
        return self.delta({"tool_calls": [call if id_ else {"index": index, "function": function}]})

    def _end(self, value: bytes) -> "LogBuilder":
        self.entries.append(Entry(TERMINAL, value))
        return self

    def done(self, finish_reason: str = "stop", usage: Json | None = USAGE) -> "LogBuilder":
        return self._end(events.done(finish_reason, usage))

    def failed(self, code: str | None = "upstream_error", type_: str = "server_error") -> "LogBuilder":
        return self._end(events.error("It went wrong.", type_, code))

    def cancelled(self) -> "LogBuilder":
        return self._end(events.cancelled())
