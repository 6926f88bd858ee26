"""The simple way: one FastAPI process that passes the SDK's stream on as Server-Sent Events.

`python -m uvicorn bench.baselines.direct:app`, with OPENAI_BASE_URL and OPENAI_API_KEY as the SDK knows them.
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from bench.baselines.limits import CONNECTIONS

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Chat(BaseModel):
    """What a client posts."""

    messages: list[Any]
    model: str = "gpt-4o-mini"


app = FastAPI()
client = AsyncOpenAI(http_client=DefaultAsyncHttpxClient(limits=CONNECTIONS))


@app.post("/v1/chat/stream")
async def stream_chat(chat: Chat) -> StreamingResponse:
    """Stream the answer's text."""
    answer = await client.chat.completions.create(model=chat.model, messages=chat.messages, stream=True)
    return StreamingResponse(_events(answer), media_type="text/event-stream", headers=HEADERS)


async def _events(answer: AsyncStream[ChatCompletionChunk]) -> AsyncIterator[str]:
    async with answer:
        async for chunk in answer:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield "data: " + text.replace("\n", "\ndata: ") + "\n\n"
    yield "event: done\ndata: [DONE]\n\n"
