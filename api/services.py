"""What the routes work with: made once by `api.main`, handed to each request."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from api.tail import Tails
from shared.log import ChatLog
from shared.queue import JobQueue
from shared.settings import Settings

if TYPE_CHECKING:
    from api.passthrough import Passthrough


@dataclass(frozen=True, slots=True)
class Services:
    """One replica's parts; all of them share one connection pool."""

    settings: Settings
    log: ChatLog
    queue: JobQueue
    tails: Tails
    leaving: asyncio.Event
    """Set when the replica was told to end and serves on a little."""
    passthrough: "Callable[[], Awaitable[Passthrough]]"
    """The way to the upstream, made when it is first asked for."""


async def services(request: Request) -> Services:
    """FastAPI dependency: the replica's services. Not a plain function, which FastAPI would send to a thread."""
    found: Services = request.app.state.services
    return found


Deps = Annotated[Services, Depends(services)]
