"""A Chat Completions request as a request to the Responses API, in background mode. Pure.

Everything is carried over, or refused by name; what neither API knows passes unchanged, as it does to an upstream that
speaks Chat Completions. Shapes are those of `openai.types.chat.completion_create_params` and
`openai.types.responses.response_create_params`.
"""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

LOGPROBS = "message.output_text.logprobs"
"""What `include` says to get log probabilities."""

_BACKGROUND = {"stream": True, "background": True, "store": True}

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "stop": ([], ""),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "seed": (),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": (),
    "store": (True,),
}
"""Parameters that the Responses API has no place for, and the values that mean the same as none."""


class Untranslatable(Exception):
    """The Responses API cannot express `param`."""

    def __init__(self, param: str, detail: str = "") -> None:
        super().__init__(f"{param} cannot be passed to an upstream that speaks the Responses API{detail}.")
        self.param = param


def translate_request(chat: Json) -> Json:
    """Give the body of a POST to `/responses` that asks for the same.

    Raises:
        Untranslatable: a parameter has no counterpart.
    """
    left = {name: value for name, value in chat.items() if value is not None}
    for name, neutral in _NEUTRAL.items():
        if name in left and left.pop(name) not in neutral:
            hint = ", which stores what it generates in the background" if name == "store" else ""
            raise Untranslatable(name, hint)
    body: Json = {"input": list(_items(left.pop("messages")))}
    stream_options = {k: v for k, v in (left.pop("stream_options", None) or {}).items() if k != "include_usage"}
    if stream_options:
        body["stream_options"] = stream_options
    limits = [left.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
    for limit in filter(None, limits):
        body.setdefault("max_output_tokens", limit)
    if left.pop("logprobs", False):
        body["include"] = [LOGPROBS]
        if "top_logprobs" in left:
            body["top_logprobs"] = left.pop("top_logprobs")
    _move_text(left, body)
    _move_reasoning(left, body)
    if "tools" in left:
        body["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(left.pop("tools"))]
    if "tool_choice" in left:
        body["tool_choice"] = _tool_choice(left.pop("tool_choice"))
    if "include" in left:
        body["include"] = [*left.pop("include"), *body.get("include", ())]
    return left | body | _BACKGROUND


def _move_text(left: Json, body: Json) -> None:
    text = left.pop("text", {})
    if "verbosity" in left:
        text = text | {"verbosity": left.pop("verbosity")}
    if "response_format" in left:
        text = text | {"format": _format(left.pop("response_format"))}
    if text:
        body["text"] = text


def _move_reasoning(left: Json, body: Json) -> None:
    reasoning = left.pop("reasoning", {})
    if "reasoning_effort" in left:
        reasoning = {"effort": left.pop("reasoning_effort")} | reasoning
    if reasoning:
        body["reasoning"] = reasoning


def _format(response_format: Json) -> Json:
    schema = response_format.get("json_schema")
    if response_format.get("type") != "json_schema" or not isinstance(schema, dict):
        return response_format
    return {"type": "json_schema", **schema}


def _tool(tool: Json, param: str) -> Json:
    function = tool.get("function")
    if tool.get("type") == "custom":
        raise Untranslatable(param)
    if tool.get("type") != "function" or not isinstance(function, dict):
        return tool  # one of the Responses API's own
    # What is absent means `strict` there, which most schemas are not fit for.
    strict = function.get("strict") or False
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {"type": "function", **function, "parameters": parameters, "strict": strict}


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    match choice.get("type"):
        case "function" if isinstance(choice.get("function"), dict):
            return {"type": "function", "name": choice["function"].get("name")}
        case "allowed_tools" if isinstance(choice.get("allowed_tools"), dict):
            allowed = choice["allowed_tools"]
            return {"type": "allowed_tools", **allowed, "tools": [_tool_choice(tool) for tool in allowed["tools"]]}
        case "custom":
            raise Untranslatable("tool_choice")
        case _:
            return choice


def _items(messages: list[Json]) -> Iterator[Json]:
    for index, message in enumerate(messages):
        param = f"messages[{index}]"
        said = {name: value for name, value in message.items() if value is not None}
        for name in ("name", "audio", "function_call"):
            if name in said:
                raise Untranslatable(f"{param}.{name}")
        match said.get("role"):
            case "tool":
                output = _content(said.get("content", ""), "user", param)
                yield {"type": "function_call_output", "call_id": said.get("tool_call_id"), "output": output}
            case "assistant":
                yield from _assistant(said, param)
            case "function":
                raise Untranslatable(f"{param}.role")
            case role:
                yield said | {"content": _content(said.get("content", ""), str(role), param)}


def _assistant(said: Json, param: str) -> Iterator[Json]:
    content = _content(said.pop("content", ""), "assistant", param)
    refusal, calls = said.pop("refusal", None), said.pop("tool_calls", ())
    # What others show of their reasoning cannot be given back: an item of reasoning has an id of the upstream's.
    said.pop("reasoning_content", None)
    said.pop("reasoning", None)
    if refusal:
        if isinstance(content, str):
            content = [{"type": "output_text", "text": content}] if content else []
        content = [*content, {"type": "refusal", "refusal": refusal}]
    if content:
        yield said | {"content": content}
    for index, call in enumerate(calls):
        function = call.get("function")
        if not isinstance(function, dict):
            raise Untranslatable(f"{param}.tool_calls[{index}]")
        name, arguments = function.get("name"), function.get("arguments", "")
        yield {"type": "function_call", "call_id": call.get("id"), "name": name, "arguments": arguments}


def _content(content: Any, role: str, param: str) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(part, role, f"{param}.content[{index}]") for index, part in enumerate(content)]


def _part(part: Json, role: str, param: str) -> Json:
    match part.get("type"):
        case "text":
            return {**part, "type": "output_text" if role == "assistant" else "input_text"}
        case "image_url":
            image = part["image_url"]
            source = image if isinstance(image, dict) else {"url": image}
            return {"type": "input_image", "image_url": source.get("url"), "detail": source.get("detail") or "auto"}
        case "file" if isinstance(part.get("file"), dict):
            return {"type": "input_file", **part["file"]}
        case "input_audio":
            raise Untranslatable(param)
        case _:
            return part
