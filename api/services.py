"""What the routes work with: made once by `api.main`, handed to each request."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.tail import Tails
from shared.log import ChatLog
from shared.queue import JobQueue
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """One replica's parts; all of them share one connection pool."""

    settings: Settings
    log: ChatLog
    queue: JobQueue
    tails: Tails
    leaving: asyncio.Event
    """Set when the replica was told to end and serves on a little."""


async def services(request: Request) -> Services:
    """FastAPI dependency: the replica's services. Not a plain function, which FastAPI would send to a thread."""
    found: Services = request.app.state.services
    return found


Deps = Annotated[Services, Depends(services)]
