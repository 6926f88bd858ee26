"""One reader's view of a response's events: from which one on, and until which."""

from api.responses.fold import Event, ResponseFold
from api.responses.shape import Head
from shared.cursor import START, EntryId
from shared.events import Entry

_OPENING = frozenset({"response.created", "response.queued", "response.in_progress"})


class ResponseEncoder:
    """Folds a log from its beginning and mutes what its reader is not to see.

    With `starting_after`, that is every event up to this number. Without, the reader sees the last epoch: the one that
    the log was in at `last_restart`, the entry that began it when the reader came (START if none did). Either way the
    stream is over after an `error` event, which voids what the reader has.
    """

    is_shared = False
    shows_places = False

    def __init__(self, head: Head, starting_after: int | None = None, last_restart: EntryId = START) -> None:
        self.fold = ResponseFold(head)
        self.is_over = False
        self._above = -1 if starting_after is None else starting_after
        self._from = START if starting_after is not None else last_restart
        self._opening: list[Event] = []

    def frame(self, entry: Entry) -> bytes:
        """The frames of the next entry; none once the stream is over."""
        events = self.fold.take(entry)
        if self.is_over:
            return b""
        if entry.id < self._from:
            self._hold(events)
            return b""
        if self._from != START:
            events = self._since_epoch(events)
            self._from = START
        frames = list[bytes]()
        for event in events:
            if event.number > self._above:
                frames.append(event.frame())
                if event.ends_epoch:
                    self.is_over = True
                    break
        return b"".join(frames)

    def interrupted(self) -> bytes | None:
        """Cut the connection: only so does an SDK see that this was not the end."""
        return None

    def _hold(self, events: list[Event]) -> None:
        """Keep how the epoch opens: if nothing else comes of it, a restart does not end it."""
        for event in events:
            if event.begins_epoch:
                self._opening.clear()
            if event.type in _OPENING:
                self._opening.append(event)

    def _since_epoch(self, events: list[Event]) -> list[Event]:
        begins = [position for position, event in enumerate(events) if event.begins_epoch]
        return events[begins[-1] :] if begins else self._opening + events


class Silence:
    """Shows nothing: for a reader that waits for the end."""

    is_shared = False
    shows_places = False
    is_over = False

    def frame(self, _entry: Entry) -> bytes:
        return b""

    def interrupted(self) -> bytes | None:
        return b""
