"""The chat's record: what is known of a chat beside its log, and the states it goes through."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class Status(StrEnum):
    """queued → running → done | failed | cancelled; a handover goes back to queued."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self not in (Status.QUEUED, Status.RUNNING)


class OnWorkerLoss(StrEnum):
    """What a new attempt does with the deltas of the one before it."""

    RESTART = "restart"
    CONTINUE = "continue"
    FAIL = "fail"


class OnDisconnect(StrEnum):
    """What happens to the generation when its last reader is gone."""

    KEEP = "keep"
    CANCEL = "cancel"


class Surface(StrEnum):
    """The wire format that a chat was created through."""

    NATIVE = "native"
    COMPLETIONS = "completions"
    RESPONSES = "responses"


def new_chat_id() -> str:
    """A chat id nobody can guess (100 random bits): whoever knows it may read and cancel the chat."""
    return "chat_" + "".join(secrets.choice(_ALPHABET) for _ in range(20))


def new_token() -> str:
    """A claim token or worker id; unique, not secret."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat as its record stands; times are Unix milliseconds by Redis's clock.

    `origin` is JSON that the surface keeps with the chat, for itself.
    """

    id: str
    status: Status
    model: str
    attempts: int
    created_ms: int
    started_ms: int | None
    finished_ms: int | None
    on_disconnect: OnDisconnect
    surface: Surface = Surface.NATIVE
    origin: bytes = b"{}"

    @classmethod
    def from_record(cls, chat_id: str, fields: Mapping[bytes, bytes]) -> "Chat":
        """Read the hash that the scripts of `shared.log` and `shared.queue` write."""

        def optional_ms(name: bytes) -> int | None:
            return int(fields[name]) if name in fields else None

        return cls(
            id=chat_id,
            status=Status(fields[b"status"].decode()),
            model=fields[b"model"].decode(),
            attempts=int(fields[b"begun"]),
            created_ms=int(fields[b"created"]),
            started_ms=optional_ms(b"started"),
            finished_ms=optional_ms(b"finished"),
            on_disconnect=OnDisconnect(fields[b"on_disconnect"].decode()),
            surface=Surface(fields.get(b"surface", b"native").decode()),
            origin=fields.get(b"origin", b"{}"),
        )


def job_id(chat_id: str, attempt: int) -> str:
    """One arq job per handover, named after its first attempt.

    arq's `finish_job` deletes by job id, and a zombie's must not hit its successor's.
    """
    return f"{chat_id}:{attempt}"
