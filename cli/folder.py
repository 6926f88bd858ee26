"""The folder of a running stack, locked while that lives: what a killed one left behind is known by it, and removed."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cli.failure import StartFailed

PREFIX = "piropiro-up-"
LOG = "server.log"


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder, there as long as the context is open.

    Raises:
        StartFailed: there is nowhere to put it.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX)
    except OSError as error:
        raise StartFailed(
            f"cannot write temporary files ({error.strerror}): make room, or name another folder with TMPDIR"
        ) from None
    with folder as name, _locked(Path(name)):
        sweep()
        yield Path(name)


def sweep() -> None:
    """Remove the folders of stacks that were killed, as far as they are ours to remove.

    Only what a stack writes is removed, never a tree: the name alone does not make it ours.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _locked(folder):
            (folder / LOG).unlink()  # a folder without it may be one that is about to be locked
            folder.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends.

    Raises:
        BlockingIOError: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
