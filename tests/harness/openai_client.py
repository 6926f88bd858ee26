"""OpenAI's own Python client, pointed at a replica or at a proxy before it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

Json = dict[str, Any]


def scripted(script: Json | None = None, **upstream: Any) -> Json:
    """What tells the simulator, through Piropiro, how to answer; at once unless it says otherwise."""
    return {"upstream": {"simulator": {"ttft": 0, "interval": 0, **(script or {})}, **upstream}}


@asynccontextmanager
async def connecting_openai() -> AsyncIterator[Callable[[str], AsyncOpenAI]]:
    """Make clients, which retry nothing, and close them in the end."""
    async with AsyncExitStack() as clients:

        def make(url: str) -> AsyncOpenAI:
            client = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=30)
            clients.push_async_callback(client.close)
            return client

        yield make
