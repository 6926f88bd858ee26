"""How a command fails to start: one line that says what to do about it."""


class StartFailed(Exception):
    """The start failed for a reason the user can act on; the message is the one line they see."""

    def __init__(self, message: str, *, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status
