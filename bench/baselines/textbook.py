"""The queue as tutorials build it: arq with its defaults, an XADD awaited per delta, an XREAD BLOCK per reader.

`python -m uvicorn bench.baselines.textbook:app` and `python -m arq bench.baselines.textbook.WorkerSettings`, both with
REDIS_URL, the worker also with OPENAI_BASE_URL and OPENAI_API_KEY.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, ClassVar

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from fastapi import FastAPI, Header, Request
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import BaseModel
from redis.asyncio import Redis

from bench.baselines.limits import CONNECTIONS

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
BLOCK_MS = 15_000
RETENTION = 3600
KEEP_ALIVE = ": keep-alive\n\n"
DONE = b"done"
TEXT = b"text"


class Chat(BaseModel):
    """What a client posts."""

    messages: list[Any]
    model: str = "gpt-4o-mini"


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.queue = await create_pool(RedisSettings.from_dsn(REDIS_URL))
    app.state.redis = Redis.from_url(REDIS_URL)
    yield
    await app.state.queue.aclose()
    await app.state.redis.aclose()


app = FastAPI(lifespan=_lifespan)


@app.post("/v1/chat/stream")
async def stream_chat(chat: Chat, request: Request) -> StreamingResponse:
    """Queue a chat and stream its answer."""
    chat_id = uuid.uuid4().hex
    queue: ArqRedis = request.app.state.queue
    await queue.enqueue_job("generate", chat_id, chat.model, chat.messages)
    return _stream(request.app.state.redis, chat_id, "0")


@app.get("/v1/chats/{chat_id}/stream")
async def resume_chat(
    chat_id: str, request: Request, last_event_id: Annotated[str, Header()] = "0"
) -> StreamingResponse:
    """Replay what came after the cursor, then follow."""
    return _stream(request.app.state.redis, chat_id, last_event_id)


def _stream(redis: Redis, chat_id: str, after: str) -> StreamingResponse:
    headers = HEADERS | {"X-Chat-Id": chat_id}
    return StreamingResponse(_events(redis, _key(chat_id), after), media_type="text/event-stream", headers=headers)


async def _events(redis: Redis, key: str, after: str) -> AsyncIterator[str]:
    """Give the log's events from `after` on until it is done; what one read brought in one piece."""
    while True:
        found = await redis.xread({key: after}, block=BLOCK_MS)
        if not found:
            yield KEEP_ALIVE
            continue
        entries = found[0][1]
        yield "".join(_event(entry_id.decode(), fields) for entry_id, fields in entries)
        after = entries[-1][0].decode()
        if DONE in entries[-1][1]:
            return


def _event(entry_id: str, fields: dict[bytes, bytes]) -> str:
    if DONE in fields:
        return f"event: done\nid: {entry_id}\ndata: [DONE]\n\n"
    text = fields[TEXT].decode().replace("\n", "\ndata: ")
    return f"id: {entry_id}\ndata: {text}\n\n"


def _key(chat_id: str) -> str:
    return f"chat:{chat_id}"


async def generate(ctx: dict[str, Any], chat_id: str, model: str, messages: list[Any]) -> None:
    """Write the upstream's answer into the chat's log."""
    client: AsyncOpenAI = ctx["client"]
    redis: ArqRedis = ctx["redis"]
    key = _key(chat_id)
    answer = await client.chat.completions.create(model=model, messages=messages, stream=True)
    async with answer:
        async for chunk in answer:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                await redis.xadd(key, {TEXT: text})
    await redis.xadd(key, {DONE: 1})
    await redis.expire(key, RETENTION)


async def _start(ctx: dict[str, Any]) -> None:
    ctx["client"] = AsyncOpenAI(http_client=DefaultAsyncHttpxClient(limits=CONNECTIONS))


async def _stop(ctx: dict[str, Any]) -> None:
    await ctx["client"].close()


class WorkerSettings:
    """arq's defaults, but for the number of jobs at once: with ten, an eleventh chat would wait for another's end."""

    functions: ClassVar = [generate]
    redis_settings = RedisSettings.from_dsn(REDIS_URL)
    on_startup = _start
    on_shutdown = _stop
    max_jobs = 1000
