"""`piropiro worker`: one worker, after the checks of its surroundings."""

import logging
from pathlib import Path

from pydantic import SecretStr, ValidationError

from cli import logs
from cli.failure import StartFailed
from cli.preflight import check_redis, read_settings
from shared.settings import Settings
from worker.main import run as work

logger = logging.getLogger(__name__)


def run(simulator: str | None, alive_file: Path | None) -> None:
    """Work until SIGINT or SIGTERM."""
    logs.configure()
    settings = with_upstream(read_settings(), simulator)
    check_redis(settings)
    if alive_file is not None:
        _check_writable(alive_file)
    work(settings, alive_file)


def with_upstream(settings: Settings, simulator: str | None) -> Settings:
    """The settings as they are if they name an upstream, else with the simulator at that URL, if there is one.

    Raises:
        StartFailed: the URL is none.
    """
    if simulator is None or settings.openai_api_key is not None or settings.openai_base_url is not None:
        return settings
    try:
        settings = Settings(openai_base_url=simulator, openai_api_key=SecretStr("not-a-real-key"))
    except ValidationError:
        raise StartFailed(
            "bad option: --simulator: must begin with http:// or https://, and name a host", exit_status=2
        ) from None
    logger.info("no OPENAI_API_KEY: answers come from the simulator; set OPENAI_API_KEY to use the real thing")
    return settings


def _check_writable(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise StartFailed(f"bad option: --alive-file: cannot write {file} ({error.strerror})", exit_status=2) from None
