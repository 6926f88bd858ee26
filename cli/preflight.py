"""What is checked before a process starts: its settings, and that Redis answers.

The client of Redis is imported when it is needed: the parent of a stack with an embedded server does without.
"""

import asyncio

from cli.failure import StartFailed
from shared.settings import InvalidSettings, Settings

PING_TIMEOUT = 2.0


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        StartFailed: with exit status 2, naming each bad variable.
    """
    try:
        return Settings.from_env()
    except InvalidSettings as error:
        raise StartFailed(str(error), exit_status=2) from None


def check_redis(settings: Settings) -> None:
    """Ping Redis once.

    Raises:
        StartFailed: it cannot be reached or refuses us; the line never holds the URL's password.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415 - see the module's docstring

    try:
        asyncio.run(_ping(settings))
    except ValueError:
        # Its text would quote the part it could not read, which may be part of a password.
        raise StartFailed(
            "bad setting: REDIS_URL: cannot be parsed, expected redis://user:password@host:port/db"
            " with special characters percent-encoded",
            exit_status=2,
        ) from None
    except (RedisError, OSError) as error:
        raise StartFailed(
            f"cannot reach Redis at {without_password(settings.redis_url)} ({_reason(error)}):"
            " start it, correct REDIS_URL, or unset it and run `piropiro up` (`make up`), which brings its own"
        ) from None


def without_password(url: str) -> str:
    """The URL without user, password and query (which may hold a password too), even of a malformed URL."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


async def _ping(settings: Settings) -> None:
    from shared.connect import connect  # noqa: PLC0415 - see the module's docstring

    client = connect(settings.redis_url)
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            await client.ping()
    finally:
        await client.aclose()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {PING_TIMEOUT:g} s"
    # Sentinel's text goes on with every attempt after the colon.
    return " ".join(str(error).partition(" : ")[0].split()).rstrip(".") or type(error).__name__
