"""Where the logs of our processes go: standard error, one line each, naming the process."""

import logging
import os
import sys

PROCESS_VARIABLE = "PIROPIRO_PROCESS"  # set by `piropiro up`, whose processes share one terminal


def configure() -> None:
    """Send this process's logs to standard error."""
    process = os.environ.get(PROCESS_VARIABLE)
    prefix = f"{process} " if process else ""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s {prefix}%(levelname)s %(name)s: %(message)s"
    )
    if process:
        # The banner says it once for all processes.
        for chatty in ("uvicorn", "cli.serving"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
