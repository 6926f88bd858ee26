"""The limit of one hop in Python: an ASGI app that passes the upstream's bytes on and looks at none of them.

`python -m uvicorn bench.baselines.pipe:app`, with OPENAI_BASE_URL.
"""

import asyncio
import os
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

UPSTREAM = urlsplit(os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1"))
_READ = 65536


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer any POST with what the upstream answers to its body."""
    if scope["type"] != "http":
        return
    body = (await receive())["body"]
    reader, writer = await asyncio.open_connection(UPSTREAM.hostname, UPSTREAM.port)
    try:
        # HTTP/1.0: the body then comes without framing, and ends with the connection.
        writer.write(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await reader.readuntil(b"\r\n\r\n")
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while data := await reader.read(_READ):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        writer.close()
