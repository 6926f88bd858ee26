"""Clients of the official SDK, of both replicas of the shared stack."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from harness.stack import Stack
from openai import AsyncOpenAI, OpenAI


@pytest.fixture(scope="session")
def translating(start_shared_stack) -> Stack:
    """The same as `stack`, but its upstream speaks Responses."""
    return start_shared_stack(apis=2, workers=2, upstream="responses")


@pytest.fixture
def upstream() -> str:
    """What the upstream speaks. A module that parametrises this is run with each."""
    return "completions"


@pytest.fixture
def urls(request, upstream) -> list[str]:
    """What a user sets as `base_url`, for each replica."""
    stack = request.getfixturevalue("translating" if upstream == "responses" else "stack")
    return [f"{api.url}/v1" for api in stack.apis]


@pytest.fixture
def client(urls) -> Iterator[OpenAI]:
    with OpenAI(base_url=urls[0], api_key="unused", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def other_client(urls) -> Iterator[OpenAI]:
    """The same, of the other replica."""
    with OpenAI(base_url=urls[1], api_key="unused", max_retries=0, timeout=30) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(urls) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=urls[0], api_key="unused", max_retries=0, timeout=30) as client:
        yield client
