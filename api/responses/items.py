"""Items to messages: what the model is shown of a conversation, in the words of Chat Completions.

A response's output is several items (reasoning, message, function calls), where Chat Completions has one message with
text and tool calls. So neighbouring items of the assistant become one message as far as that can hold them.
"""

from collections.abc import Mapping
from typing import Any

from api.errors import ApiError
from api.responses.checks import expect, invalid, missing, one_of, only, optional, path, required, unsupported
from shared.events import Json

_ROLES = ("user", "assistant", "system", "developer")
_DETAILS = ("low", "high", "auto", "original")
_FOREIGN = ("namespace", "caller")
_NO_PLACE = "Chat Completions upstreams have no such item"


def references_of(items: Any) -> list[str]:
    """The ids of items that `input` refers to; tolerates any shape."""
    found = (
        [item for item in items if isinstance(item, dict) and _is_reference(item)] if isinstance(items, list) else []
    )
    return [item["id"] for item in found if isinstance(item.get("id"), str)]


def messages_of(items: Any, param: str = "input", known: Mapping[str, Json] | None = None) -> list[Json]:
    """The messages that `input`, a text or a list of items, stands for; `known` are the items that it refers to.

    Raises:
        ApiError: 400 that names the item or its member, 404 for a reference to what is not known.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages = _Messages(known or {})
    if not isinstance(items, list):
        raise invalid(param, "expected a string or an array of items", "invalid_type")
    for index, item in enumerate(items):
        messages.add(expect(item, dict, f"{param}[{index}]"), f"{param}[{index}]")
    return messages.finished()


class _Messages:
    """Takes items in order; `_open` is the assistant's message that still grows."""

    def __init__(self, known: Mapping[str, Json]) -> None:
        self._known = known
        self._referred = set[str]()
        self._messages: list[Json] = []
        self._open: Json | None = None
        self._reasoning = ""

    def finished(self) -> list[Json]:
        self._close()
        return self._messages

    def add(self, item: Json, param: str) -> None:
        if _is_reference(item):
            item = self._look_up(item, param)
        kind = item.get("type", "message")
        match kind:
            case "message":
                self._add_message(item, param)
            case "function_call":
                self._add_call(item, param)
            case "function_call_output":
                self._add_call_output(item, param)
            case "reasoning":
                self._add_reasoning(item, param)
            case str():
                raise unsupported(path(param, "type"), f"{_NO_PLACE} as {kind[:64]!r}")
            case _:
                raise invalid(path(param, "type"), "expected a string", "invalid_type")

    def _look_up(self, reference: Json, param: str) -> Json:
        only(reference, ("type", "id"), param)
        id_ = required(reference, "id", str, param)
        if id_ not in self._known:
            raise ApiError(404, f"Item with id '{id_[:64]}' not found.", param=path(param, "id"), code="item_not_found")
        if id_ in self._referred:  # a short reference may stand for a long item
            raise invalid(path(param, "id"), f"duplicate item '{id_[:64]}'")
        self._referred.add(id_)
        return self._known[id_]

    def _close(self) -> None:
        if self._open is not None:
            # Models that call tools while they reason want it back, in that case only: some refuse it otherwise.
            if self._reasoning and self._open.get("tool_calls"):
                self._open["reasoning_content"] = self._reasoning
            self._messages.append(self._open)
        self._open = None
        self._reasoning = ""

    def _add_message(self, item: Json, param: str) -> None:
        only(item, ("type", "id", "role", "content", "status", "phase"), param)
        role = one_of(required(item, "role", str, param), _ROLES, path(param, "role"))
        if "content" not in item:
            raise missing(path(param, "content"))
        if role != "assistant":
            self._close()
            self._messages.append({"role": role, "content": _content(item["content"], path(param, "content"))})
            return
        said = _assistant_message(item["content"], path(param, "content"))
        # Calls want their outputs next: text between the two joins their message.
        if self._open is not None and (self._open.get("tool_calls") or self._open["content"] is None):
            self._open["content"] = (self._open["content"] or "") + (said["content"] or "") or None
            if "refusal" in said:
                self._open["refusal"] = said["refusal"]
            return
        reasoning = self._reasoning if self._open is None else ""
        self._close()
        self._open, self._reasoning = said, reasoning

    def _add_call(self, item: Json, param: str) -> None:
        only(item, ("type", "id", "call_id", "name", "arguments", "status", *_FOREIGN), param)
        _refuse_foreign(item, param)
        call = {
            "id": required(item, "call_id", str, param),
            "type": "function",
            "function": {
                "name": required(item, "name", str, param),
                "arguments": required(item, "arguments", str, param),
            },
        }
        if self._open is None:
            self._open = {"role": "assistant", "content": None}
        self._open.setdefault("tool_calls", []).append(call)

    def _add_call_output(self, item: Json, param: str) -> None:
        only(item, ("type", "id", "call_id", "output", "status", "name", *_FOREIGN), param)
        _refuse_foreign(item, param)
        self._close()
        output, output_param = item.get("output"), path(param, "output")
        if not isinstance(output, str):
            output = _content(expect(output, list, output_param), output_param)
            if isinstance(output, list) and any(part["type"] != "text" for part in output):
                raise unsupported(output_param, "Chat Completions upstreams take nothing but text as a tool's output")
        call_id = required(item, "call_id", str, param)
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": output})

    def _add_reasoning(self, item: Json, param: str) -> None:
        only(item, ("type", "id", "summary", "content", "encrypted_content", "status"), param)
        if self._open is not None and not self._open.get("tool_calls"):
            self._close()
        name = "content" if optional(item, "content", list, param) else "summary"
        for index, part in enumerate(optional(item, name, list, param) or []):
            where = f"{path(param, name)}[{index}]"
            self._reasoning += required(expect(part, dict, where), "text", str, where)


def _is_reference(item: Json) -> bool:
    return item.get("type") == "item_reference" or (
        "id" in item and item.keys() <= {"type", "id"} and not item.get("type")
    )


def _refuse_foreign(item: Json, param: str) -> None:
    for name in _FOREIGN:
        if item.get(name) not in (None, {"type": "direct"}):
            raise unsupported(path(param, name), "functions are called by the model, by their name alone")


def _content(content: Any, param: str) -> str | list[Json]:
    """The content of a message that is not the assistant's; one text alone is a string, which every upstream takes."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(param, "expected a string or an array of parts", "invalid_type")
    parts = [_part(expect(part, dict, f"{param}[{index}]"), f"{param}[{index}]") for index, part in enumerate(content)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts


def _part(part: Json, param: str) -> Json:
    match part.get("type"):
        case "input_text" | "output_text":
            only(part, ("type", "text", "annotations", "logprobs"), param)
            return {"type": "text", "text": required(part, "text", str, param)}
        case "input_image":
            return _image(part, param)
        case "input_file":
            return _file(part, param)
        case _:
            raise invalid(path(param, "type"), "supported values are 'input_text', 'input_image', 'input_file'")


def _image(part: Json, param: str) -> Json:
    only(part, ("type", "image_url", "detail", "file_id"), param)
    if part.get("file_id") is not None:
        raise unsupported(path(param, "file_id"), "send the image as image_url, a data: URL if need be")
    url: Json = {"url": required(part, "image_url", str, param)}
    detail = one_of(optional(part, "detail", str, param), _DETAILS, path(param, "detail"))
    return {"type": "image_url", "image_url": url if detail is None else {**url, "detail": detail}}


def _file(part: Json, param: str) -> Json:
    only(part, ("type", "file_data", "file_id", "filename", "file_url"), param)
    if part.get("file_url") is not None:
        raise unsupported(path(param, "file_url"), "send the file as file_data")
    named = {name: optional(part, name, str, param) for name in ("file_data", "file_id", "filename")}
    return {"type": "file", "file": {name: value for name, value in named.items() if value is not None}}


def _assistant_message(content: Any, param: str) -> Json:
    """What the assistant said before: text, and a refusal if there was one."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    if not isinstance(content, list):
        raise invalid(param, "expected a string or an array of parts", "invalid_type")
    texts, refusals = list[str](), list[str]()
    for index, value in enumerate(content):
        where = f"{param}[{index}]"
        part = expect(value, dict, where)
        match part.get("type"):
            case "output_text" | "input_text":
                texts.append(required(part, "text", str, where))
            case "refusal":
                refusals.append(required(part, "refusal", str, where))
            case _:
                raise invalid(path(where, "type"), "supported values are 'output_text', 'refusal'")
    message: Json = {"role": "assistant", "content": "".join(texts) if texts or not refusals else None}
    return {**message, "refusal": "".join(refusals)} if refusals else message
