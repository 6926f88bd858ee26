"""What a response leaves for those that come after it: the conversation so far, and the items that it was given."""

from collections.abc import Iterator
from typing import Any

from api.responses.items import messages_of
from api.responses.shape import Head
from shared import json_text
from shared.events import Json


def history_of(head: Head, request: bytes, output: list[Json]) -> list[Json]:
    """The messages that a next response's own follow: the request's without its instructions, and the output.

    A call that was broken off stays out: nobody can answer it.
    """
    whole = [item for item in output if item["type"] != "function_call" or item["status"] == "completed"]
    return [*_conversation(head, request), *messages_of(whole, "output")]


def input_items(head: Head, request: bytes) -> list[Json]:
    """The items that the model was given, oldest first: the conversation, without instructions."""
    items = [item for message in _conversation(head, request) for item in _items(message)]
    return [{"id": head.item_id("in", index), **item} for index, item in enumerate(items)]


def _conversation(head: Head, request: bytes) -> list[Json]:
    messages: list[Json] = json_text.loads(request)["messages"]
    return messages if head.echo["instructions"] is None else messages[1:]


def _items(message: Json) -> Iterator[Json]:
    """The inverse of `messages_of`, but for ids."""
    role, content = message["role"], message["content"]
    match role:
        case "assistant":
            if message.get("reasoning_content"):
                reasoning = [{"type": "reasoning_text", "text": message["reasoning_content"]}]
                yield {"type": "reasoning", "summary": [], "content": reasoning}
            if parts := list(_said(message)):
                yield {"type": "message", "role": role, "status": "completed", "content": parts}
            for call in message.get("tool_calls", ()):
                function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
                yield {"type": "function_call", "call_id": call["id"], "status": "completed", **function}
        case "tool":
            output = content if isinstance(content, str) else list(_parts(content))
            call_id = message["tool_call_id"]
            yield {"type": "function_call_output", "call_id": call_id, "status": "completed", "output": output}
        case _:
            yield {"type": "message", "role": role, "status": "completed", "content": list(_parts(content))}


def _said(message: Json) -> Iterator[Json]:
    if isinstance(message["content"], str):
        yield {"type": "output_text", "text": message["content"], "annotations": [], "logprobs": []}
    if "refusal" in message:
        yield {"type": "refusal", "refusal": message["refusal"]}


def _parts(content: Any) -> Iterator[Json]:
    if isinstance(content, str):
        yield {"type": "input_text", "text": content}
        return
    for part in content:
        match part["type"]:
            case "image_url":
                image = part["image_url"]
                yield {"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")}
            case "file":
                yield {"type": "input_file", **part["file"]}
            case _:
                yield {"type": "input_text", "text": part["text"]}
