"""What `/docs` says beyond the code: bodies, answers, errors and the events of a stream."""

from typing import Any

from fastapi import Response

CURSOR = "The id of the last event you have. Opaque; the header wins over the query parameter; empty counts as absent."
FORMAT = "`text`: data is plain text, to read along. `json`: data is JSON and loses nothing of the upstream's deltas."
IDEMPOTENCY_KEY = (
    "A repeated POST with the same key and body returns the first chat instead of generating again; "
    "with another body it is refused (422). The key lives as long as its chat."
)
ON_WORKER_LOSS = (
    "What a new attempt does with a partial answer: `restart` (default) drops it, `continue` goes on after it "
    "(for upstreams that continue a final assistant message), `fail` ends the chat with an error."
)
ON_DISCONNECT = (
    "`keep` (default): the answer is generated anyway. `cancel`: when its last reader is gone, the chat ends."
)

_EVENTS = """
Server-Sent Events. Every event but `queued` has `id: <chat id>:<attempt>-<seq>`: send the last one you have as
`Last-Event-ID` to go on exactly after it, on any replica.

| event | `format=text` data | `format=json` data |
|---|---|---|
| `queued` (no id) | – | `{"position": 3}` |
| `started` | – | `{"attempt": 1, "model": "…"}` |
| delta: unnamed in text, `delta` in JSON | the text, one `data:` line per line | the upstream's `choices[0].delta` |
| `restart`: drop what you have | empty | `{"attempt": 2, "reason": "…"}` |
| `done` | `[DONE]` | `{"finish_reason": "stop", "usage": {…} or null}` |
| `error` | `{"error": {…}}` | `{"error": {…}}` |
| `cancelled` | `[CANCELLED]` | `{}` |

Exactly one of `done`, `error`, `cancelled` ends a chat. A stream that ends without one of them was cut: resume it.
An idle stream carries `: keep-alive` comments.
"""

_EXAMPLE = (
    "id: chat_k3v5mz7q2x4c6b8n9wpa:1-2\ndata: Hel\n\nid: chat_k3v5mz7q2x4c6b8n9wpa:1-3\ndata: lo\n\n"
    "event: done\nid: chat_k3v5mz7q2x4c6b8n9wpa:18446744073709551615-18446744073709551615\ndata: [DONE]\n\n"
)

_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

_CHAT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "status": {"enum": ["queued", "running", "done", "failed", "cancelled"]},
        "model": {"type": "string"},
        "created_at": {"type": "number", "description": "Unix seconds"},
        "started_at": {"type": ["number", "null"], "description": "Unix seconds"},
        "finished_at": {"type": ["number", "null"], "description": "Unix seconds"},
        "attempts": {"type": "integer", "description": "How many attempts have begun"},
        "text": {"type": "string", "description": "The answer so far"},
        "finish_reason": {"type": ["string", "null"]},
        "usage": {"type": ["object", "null"]},
        "error": {"type": ["object", "null"]},
        "cursor": {"type": "string", "description": "A stream resumed from here continues after `text`"},
    },
}

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["messages"],
                    "additionalProperties": True,
                    "description": "A Chat Completions request; unknown members pass to the upstream unchanged.",
                    "properties": {
                        "messages": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["role"],
                                "properties": {"role": {"type": "string"}, "content": {}},
                                "additionalProperties": True,
                            },
                        },
                        "model": {"type": "string", "description": "Default: the server's PIROPIRO_MODEL"},
                        "n": {"const": 1},
                        "stream": {"description": "Ignored"},
                    },
                },
                "example": {"messages": [{"role": "user", "content": "やっほ"}]},
            }
        },
    }
}

_COMPLETION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["messages"],
    "additionalProperties": True,
    "description": "A Chat Completions request; unknown members pass to the upstream unchanged.",
    "properties": {
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"]}},
        "model": {"type": "string", "description": "Default: the server's PIROPIRO_MODEL"},
        "n": {"type": "integer", "minimum": 1, "maximum": 128},
        "stream": {"type": "boolean"},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    },
}

_EXAMPLE_BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "やっほ"}]}

_MEANINGS = {
    400: "Malformed or invalid; `param` names the field",
    404: "Unknown or expired chat",
    409: "The chat was cancelled",
    410: "The cursor names no entry of the log (`cursor_lost`)",
    413: "The body is larger than PIROPIRO_MAX_BODY",
    422: "The Idempotency-Key was used with another body",
    429: "The queue is full; see Retry-After",
    502: "The upstream failed, after the retries; or it refused this server's own key",
    504: "The upstream or the queue took too long",
    503: "Redis is not reachable; see Retry-After",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    meanings = {status: _MEANINGS[status] for status in statuses} | {"default": "Any other error, in the same envelope"}
    return {
        status: {"description": meaning, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
        for status, meaning in meanings.items()
    }


def _chat(status: int, description: str) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": description, "content": {"application/json": {"schema": _CHAT_SCHEMA}}}}


_STREAM_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": _EVENTS,
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        "headers": {
            "X-Chat-Id": {"schema": {"type": "string"}},
            "Content-Location": {"schema": {"type": "string"}, "description": "Where to resume"},
        },
    },
    204: {"description": "The chat has ended, and the cursor is its end"},
}

_PLAIN: dict[str, Any] = {"response_model": None}

_STREAMED: dict[str, Any] = {**_PLAIN, "response_class": Response}

CREATE_AND_STREAM: dict[str, Any] = {
    **_STREAMED,
    "openapi_extra": _BODY,
    "responses": {**_STREAM_ANSWER, **_errors(400, 404, 410, 413, 422, 429, 503)},
}
CREATE: dict[str, Any] = {
    **_PLAIN,
    "status_code": 202,
    "openapi_extra": _BODY,
    "responses": {**_chat(202, "Created, or found by its idempotency key"), **_errors(400, 413, 422, 429, 503)},
}
_COMPLETION_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As OpenAI's: a `chat.completion`, or with `stream: true` Server-Sent Events, each a "
        "`chat.completion.chunk`, then `data: [DONE]`. Once it has begun, a stream that fails ends with "
        '`data: {"error": {…}}` instead.',
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
        "headers": {
            "X-Chat-Id": {"schema": {"type": "string"}, "description": "The chat, for `/v1/chats/{id}`"},
            "x-request-id": {"schema": {"type": "string"}, "description": "The same"},
        },
    }
}

COMPLETIONS: dict[str, Any] = {
    **_STREAMED,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _COMPLETION_SCHEMA, "example": _EXAMPLE_BODY}},
        }
    },
    "responses": {**_COMPLETION_ANSWER, **_errors(400, 404, 409, 413, 422, 429, 502, 503, 504)},
}

MODELS: dict[str, Any] = {
    **_PLAIN,
    "responses": {
        200: {"description": "What the upstream says", "content": {"application/json": {"schema": {"type": "object"}}}},
        **_errors(404, 429, 502, 504),
    },
}
READ: dict[str, Any] = {**_PLAIN, "responses": {**_chat(200, "The chat"), **_errors(404, 503)}}
STREAM: dict[str, Any] = {**_STREAMED, "responses": {**_STREAM_ANSWER, **_errors(400, 404, 410, 503)}}
CANCEL: dict[str, Any] = {**_PLAIN, "responses": {**_chat(200, "The chat as it ended"), **_errors(404, 503)}}
_RESPONSE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "A request of OpenAI's Responses API. What is not supported is refused by its name.",
                    "properties": {
                        "input": {"description": "A text, or a list of items"},
                        "model": {"type": "string", "description": "Default: the server's PIROPIRO_MODEL"},
                        "instructions": {"type": ["string", "null"]},
                        "background": {"type": ["boolean", "null"]},
                        "stream": {"type": ["boolean", "null"]},
                        "upstream": {
                            "type": "object",
                            "description": "Piropiro's own: members of the upstream's request, passed as they are",
                        },
                    },
                    "additionalProperties": True,
                },
                "example": {"input": "やっほ", "background": True, "stream": True},
            }
        },
    }
}

_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The response object of OpenAI's Responses API, or its events",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}

CREATE_RESPONSE: dict[str, Any] = {
    **_STREAMED,
    "openapi_extra": _RESPONSE_BODY,
    "responses": {**_RESPONSE, **_errors(400, 404, 413, 422, 429, 503)},
}
READ_RESPONSE: dict[str, Any] = {**_STREAMED, "responses": {**_RESPONSE, **_errors(400, 404, 503)}}
CHANGE_RESPONSE: dict[str, Any] = {**_PLAIN, "responses": {**_RESPONSE, **_errors(404, 503)}}
HEALTHZ: dict[str, Any] = {**_PLAIN, "responses": _errors(404)}
READYZ: dict[str, Any] = {**_PLAIN, "responses": _errors(503)}
