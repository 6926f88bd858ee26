"""Which upstream a process takes: the one of its settings, else the simulator."""

import logging

from pydantic import SecretStr, ValidationError

from cli.failure import StartFailed
from shared.settings import Settings

logger = logging.getLogger(__name__)


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
