"""What is known of one chat in the end: what was planned, what the log says, and what each reader got."""

import base64
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from faults.chats import CancelPlan, ChatPlan, ReaderPlan
from faults.sse import Event

_NOTES = 200

Span = tuple[float, float]
"""From when to when, in Unix time."""


@dataclass
class View:
    """What one reader got, over all its connections. `refusals` are answers that no reader should get.

    `connections`: from when to when (Unix time) each was open, as the reader saw it.
    """

    reader: str
    format: str
    events: list[Event] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    connections: list[Span] = field(default_factory=list)
    is_ended: bool = False

    def note(self, text: str) -> None:
        """Remember, within bounds, what happened to a connection."""
        if len(self.notes) < _NOTES:
            self.notes.append(text)


@dataclass
class Evidence:
    """Everything that the checker looks at.

    `posted_ids`: the chat ids that POSTs of this chat were answered with. `entries`: id and value, as the log has
    them. `replay`: the JSON stream read once more without a cut. `chat`: what `GET` says. `failures`: of the record.
    `cancel_statuses`: the chat's status in the answers to cancels; `cancels_sent`: how many were tried. `requests`: how
    many the simulator got, where that is looked up and it remembers all of them. `is_resumable`: the upstream can go on
    with an answer; `responses`: how many it began then, where that is known. `left_at`: when the last reader left
    a chat that was to be left. `disturbed`: when faults were at work between this chat's readers and Redis.
    """

    plan: ChatPlan
    chat_id: str | None = None
    posted_ids: list[str] = field(default_factory=list)
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    replay: list[Event] = field(default_factory=list)
    chat: dict[str, Any] = field(default_factory=dict)
    failures: int = 0
    views: list[View] = field(default_factory=list)
    cancel_statuses: list[str] = field(default_factory=list)
    cancels_sent: int = 0
    requests: int | None = None
    is_resumable: bool = False
    responses: int | None = None
    left_at: float | None = None
    disturbed: list[Span] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Whether the log has a terminal entry."""
        return any(id_ == TERMINAL_ID for id_, _ in self.entries)


TERMINAL_ID = f"{2**64 - 1}-{2**64 - 1}"


def to_json(evidence: Evidence) -> dict[str, Any]:
    """The evidence as JSON can hold it."""
    fields = dataclasses.asdict(evidence)
    fields["entries"] = [[id_, base64.b64encode(value).decode()] for id_, value in evidence.entries]
    return fields


def from_json(fields: dict[str, Any]) -> Evidence:
    """The inverse of `to_json`."""
    plan = dict(fields["plan"])
    plan["deltas"] = tuple(plan["deltas"])
    plan["cancel"] = CancelPlan(**plan["cancel"]) if plan["cancel"] else None
    plan["readers"] = tuple(ReaderPlan(**reader) for reader in plan["readers"])
    views = [
        View(
            **{
                **view,
                "events": [Event(*event) for event in view["events"]],
                "connections": [(began, ended) for began, ended in view.get("connections", ())],
            }
        )
        for view in fields["views"]
    ]
    return Evidence(
        **{
            **fields,
            "plan": ChatPlan(**plan),
            "entries": [(id_, base64.b64decode(value)) for id_, value in fields["entries"]],
            "replay": [Event(*event) for event in fields["replay"]],
            "views": views,
            "disturbed": [(began, ended) for began, ended in fields.get("disturbed", ())],
        }
    )
