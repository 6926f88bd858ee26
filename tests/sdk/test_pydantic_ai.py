"""Agents of pydantic-ai, unmodified, on both surfaces: tools in a loop, streams, and output of a type."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, UsageLimits
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.output import NativeOutput
from pydantic_ai.providers.openai import OpenAIProvider

CALLS = [{"name": "get_weather", "arguments": {"city": city}} for city in ("京都", "東京")]


class Scripting(httpx2.AsyncHTTPTransport):
    """Tells the simulator what to answer to the next requests, of which the framework knows nothing."""

    scripts: list[dict[str, Any]]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(await request.aread())
        simulator = {"simulator": {"ttft": 0, "interval": 0, **self.scripts.pop(0)}}
        body |= {"upstream": simulator} if request.url.path.endswith("/responses") else simulator
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        changed = httpx2.Request("POST", request.url, headers=headers, json=body, extensions=request.extensions)
        return await super().handle_async_request(changed)


@pytest_asyncio.fixture
async def scripting() -> AsyncIterator[Scripting]:
    async with Scripting() as transport:
        yield transport


@pytest_asyncio.fixture(params=[OpenAIChatModel, OpenAIResponsesModel], ids=["completions", "responses"])
async def model(request, urls, scripting) -> AsyncIterator[Any]:
    async with AsyncOpenAI(
        base_url=urls[0],
        api_key="unused",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=scripting, timeout=30),
    ) as client:
        yield request.param("simulator", provider=OpenAIProvider(openai_client=client))


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def agent(model, asked) -> Agent:
    agent = Agent(model, instructions="Answer shortly.")

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return f"clear in {city}"

    return agent


async def test_an_agent_calls_its_tools(agent, asked, scripting):
    scripting.scripts = [{"tool_calls": CALLS}, {"text": "どちらも晴れです。"}]
    result = await agent.run("How is Japan?")
    assert result.output == "どちらも晴れです。"
    assert sorted(asked) == sorted(call["arguments"]["city"] for call in CALLS)
    assert result.usage.requests == 2
    assert result.usage.output_tokens > 0


async def test_an_agent_streams_its_answer_after_its_tools(agent, asked, scripting):
    scripting.scripts = [
        {"reasoning": "天気だ。", "text": "見てみます。", "tool_calls": CALLS},
        {"deltas": ["どちらも", "晴れ", "です。"]},
    ]
    events: list[Any] = []

    async def take(_: Any, stream: Any) -> None:
        events.extend([event async for event in stream])

    result = await agent.run("How is Japan?", event_stream_handler=take)
    assert result.output == "どちらも晴れです。"
    assert sorted(asked) == sorted(call["arguments"]["city"] for call in CALLS)
    assert [event.event_kind for event in events].count("function_tool_result") == 2
    (thought,) = (part for message in result.all_messages() for part in message.parts if isinstance(part, ThinkingPart))
    raw = (thought.provider_details or {}).get("raw_content")  # where it puts reasoning that is no summary
    assert (thought.content or "".join(raw or ())) == "天気だ。"


async def test_text_arrives_delta_by_delta(agent, scripting):
    scripting.scripts = [{"deltas": ["や", "っ", "ほ"], "interval": 0.02}]
    async with agent.run_stream("やっほ") as result:
        assert [text async for text in result.stream_text(delta=True, debounce_by=None)] == ["や", "っ", "ほ"]
        assert result.usage.output_tokens == 3


async def test_a_conversation_goes_on_with_its_history(agent, scripting):
    scripting.scripts = [
        {"reasoning": "考える。", "text": "Hello, Aya."},
        {"tool_calls": CALLS},
        {"text": "Aya."},
    ]
    first = await agent.run("I am Aya.")
    second = await agent.run("Who am I?", message_history=first.all_messages())
    assert second.output == "Aya."


class City(BaseModel):
    name: str
    wards: list[str]


@pytest.mark.parametrize("is_native", [False, True], ids=["tool", "native"])
async def test_output_of_a_type(model, scripting, is_native):
    city = City(name="京都", wards=["北区", "上京区"])
    answer = {"name": "final_result", "arguments": city.model_dump()}
    scripting.scripts = [{"text": city.model_dump_json()} if is_native else {"tool_calls": [answer]}]
    agent = Agent(model, output_type=NativeOutput(City) if is_native else City)
    assert (await agent.run("Kyoto?", usage_limits=UsageLimits(request_limit=1))).output == city


async def test_an_error_is_the_frameworks_own(agent, scripting):
    scripting.scripts = [{"fault": {"kind": "status", "status": 400, "message": "no such thing"}}]
    with pytest.raises(ModelHTTPError, match="no such thing") as caught:
        await agent.run("やっほ")
    assert caught.value.status_code == 400
