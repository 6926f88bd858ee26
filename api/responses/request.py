"""A posted Responses body: checked, and turned into the Chat Completions request that answers it.

Every parameter that OpenAI's API knows is here: supported, echoed without an effect that could be missed, or refused by
its name. Nothing is ignored in silence; `docs/protocol.md` has the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from api.responses.checks import invalid, missing, one_of, only, optional, path, required, unknown, unsupported
from api.responses.items import messages_of
from shared import json_text
from shared.events import Json

_REFUSED = {
    "access_programs": "upstreams have no access programs",
    "background_options": "responses are generated as soon as a worker is free",
    "context_management": "the conversation is sent as it is",
    "conversation": "use previous_response_id, or send the items",
    "image": "images are sent as they are",
    "max_tool_calls": "it limits built-in tools, and there are none",
    "moderation": "there is no moderation",
    "prompt": "there are no prompt templates; send instructions and input",
    "prompt_cache_options": "Chat Completions upstreams have prompt_cache_key alone",
}
"""Parameters that are refused unless they are null, and why."""

_PASSED: dict[str, type] = {
    "temperature": float,
    "top_p": float,
    "user": str,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "service_tier": str,
}
"""Parameters that mean the same in Chat Completions; they are also echoed."""

_KNOWN = frozenset(
    {
        *_REFUSED,
        *_PASSED,
        *("background", "include", "input", "instructions", "max_output_tokens", "metadata", "model"),
        *("parallel_tool_calls", "previous_response_id", "reasoning", "store", "stream", "stream_options", "text"),
        *("tool_choice", "tools", "top_logprobs", "truncation", "upstream"),
    }
)

_LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = frozenset(
    {
        _LOGPROBS,
        # Of tools that cannot be called here, of images that are never left out, and of reasoning, which is not hidden.
        *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
        *("computer_call_output.output.image_url", "code_interpreter_call.outputs"),
        *("message.input_image.image_url", "reasoning.encrypted_content"),
    }
)

_OURS = frozenset({"messages", "model", "stream", "stream_options", "n"})
"""What `upstream` cannot set, because this server depends on it."""

_MAX_METADATA = 16
_MAX_METADATA_KEY = 64
_MAX_METADATA_VALUE = 512
_MAX_TOP_LOGPROBS = 20
_UPSTREAM_HINT = " What is meant for the upstream as it is goes into 'upstream', an object of Piropiro's own."


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A checked request.

    `messages` are those of its own input; `parameters` go to the upstream beside the messages; `echo` is what the
    response object repeats of the request.
    """

    model: str
    messages: list[Json]
    parameters: Json
    echo: Json
    stream: bool
    shows_logprobs: bool

    @property
    def is_background(self) -> bool:
        return bool(self.echo["background"])

    @property
    def is_stored(self) -> bool:
        return bool(self.echo["store"])

    @property
    def previous_response_id(self) -> str | None:
        found: str | None = self.echo["previous_response_id"]
        return found

    @property
    def origin(self) -> bytes:
        """What the chat's record keeps for the response object."""
        return json_text.dumps({"echo": self.echo, "shows_logprobs": self.shows_logprobs})

    def upstream_request(self, history: list[Json]) -> Json:
        """The body for the upstream; `history` is the conversation before, without its instructions."""
        instructions = self.echo["instructions"]
        opening = [] if instructions is None else [{"role": "system", "content": instructions}]
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        messages = [*opening, *history, *self.messages]
        return {"model": self.model, "messages": messages, **self.parameters, **streaming}


def parse_request(body: Json, default_model: str, known: Mapping[str, Json] | None = None) -> ResponseRequest:
    """Check a posted body; `known` are the items that its input refers to, by id.

    Raises:
        ApiError: 400 that names the parameter.
    """
    for name, reason in _REFUSED.items():
        if body.get(name) is not None:
            raise unsupported(name, reason)
    for name in body:
        if name not in _KNOWN:
            raise unknown(name, _UPSTREAM_HINT)
    draft = _Draft(body)
    draft.read_switches()
    draft.read_sampling()
    draft.read_tools()
    draft.read_text()
    draft.read_reasoning()
    draft.read_metadata()
    draft.read_upstream()
    return ResponseRequest(
        model=_model(body) or default_model,
        messages=_messages(body, known),
        parameters=draft.parameters,
        echo=draft.echo,
        stream=bool(optional(body, "stream", bool)),
        shows_logprobs=draft.shows_logprobs,
    )


def _model(body: Json) -> str | None:
    model: str | None = optional(body, "model", str)
    if model and any("\ud800" <= character <= "\udfff" for character in model):
        raise invalid("model", "not valid Unicode")
    return model


def _messages(body: Json, known: Mapping[str, Json] | None) -> list[Json]:
    if body.get("input") is None:
        if body.get("previous_response_id") is None:
            raise missing("input")
        return []
    messages = messages_of(body["input"], known=known)
    if not messages and body.get("previous_response_id") is None:
        raise invalid("input", "must have at least one item with something to say")
    return messages


@dataclass(slots=True)
class _Draft:
    """Gathers what the parameters of a body mean."""

    body: Json
    parameters: Json = field(default_factory=Json)
    echo: Json = field(default_factory=Json)
    shows_logprobs: bool = False

    def read_switches(self) -> None:
        background, store = optional(self.body, "background", bool), optional(self.body, "store", bool)
        if background and store is False:
            raise invalid("background", "a background response has to be stored; leave out store, or set it to true")
        one_of(optional(self.body, "truncation", str), ("disabled", "auto"), "truncation")
        if self.body.get("truncation") == "auto":
            raise unsupported("truncation", "the conversation is sent as it is; 'disabled' is")
        options = optional(self.body, "stream_options", dict) or {}
        only(options, ("include_obfuscation",), "stream_options")
        optional(options, "include_obfuscation", bool, "stream_options")
        self.echo |= {
            "background": bool(background),
            "store": store is not False,
            "truncation": "disabled",
            "instructions": optional(self.body, "instructions", str),
            "previous_response_id": optional(self.body, "previous_response_id", str),
        }

    def read_sampling(self) -> None:
        for name, kind in _PASSED.items():
            value = optional(self.body, name, kind)
            if value is not None:
                self.parameters[name] = value
            self.echo[name] = value
        limit = optional(self.body, "max_output_tokens", int)
        if limit is not None:
            if limit < 1:
                raise invalid("max_output_tokens", "must be at least 1")
            self.parameters["max_completion_tokens"] = limit
        self.echo["max_output_tokens"] = limit
        self._read_logprobs()

    def _read_logprobs(self) -> None:
        include = optional(self.body, "include", list) or []
        for index, name in enumerate(include):
            one_of(name if isinstance(name, str) else repr(name), INCLUDABLE, f"include[{index}]")
        top = optional(self.body, "top_logprobs", int)
        if top is not None and not 0 <= top <= _MAX_TOP_LOGPROBS:
            raise invalid("top_logprobs", f"must be from 0 to {_MAX_TOP_LOGPROBS}")
        self.shows_logprobs = _LOGPROBS in include or bool(top)
        if self.shows_logprobs:
            self.parameters["logprobs"] = True
        if top:
            self.parameters["top_logprobs"] = top
        self.echo["top_logprobs"] = top or 0

    def read_tools(self) -> None:
        tools = optional(self.body, "tools", list) or []
        read = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
        self.echo["tools"] = read
        if read:
            self.parameters["tools"] = [{"type": "function", "function": _function(tool)} for tool in read]
        choice = self.body.get("tool_choice")
        self.echo["tool_choice"] = "auto" if choice is None else choice
        if choice is not None:
            chosen = _tool_choice(choice)
            if read or chosen not in ("auto", "none"):  # upstreams refuse it where there are no tools
                self.parameters["tool_choice"] = chosen
        parallel = optional(self.body, "parallel_tool_calls", bool)
        self.echo["parallel_tool_calls"] = parallel is not False
        if parallel is not None and read:
            self.parameters["parallel_tool_calls"] = parallel

    def read_text(self) -> None:
        text = optional(self.body, "text", dict) or {}
        only(text, ("format", "verbosity"), "text")
        format_ = optional(text, "format", dict, "text") or {"type": "text"}
        verbosity = one_of(optional(text, "verbosity", str, "text"), ("low", "medium", "high"), "text.verbosity")
        response_format = _response_format(format_)
        if response_format is not None:
            self.parameters["response_format"] = response_format
        if verbosity is not None:
            self.parameters["verbosity"] = verbosity
        self.echo["text"] = {"format": format_, "verbosity": verbosity}

    def read_reasoning(self) -> None:
        reasoning = optional(self.body, "reasoning", dict) or {}
        only(reasoning, ("effort", "summary", "generate_summary", "context", "mode"), "reasoning")
        effort = optional(reasoning, "effort", str, "reasoning")
        if effort is not None:
            self.parameters["reasoning_effort"] = effort
        summary = optional(reasoning, "summary", str, "reasoning")
        summary = summary or optional(reasoning, "generate_summary", str, "reasoning")
        one_of(summary, ("auto", "concise", "detailed"), "reasoning.summary")
        if summary == "concise":
            raise unsupported(
                "reasoning.summary", "nobody sums up; 'auto' and 'detailed' show the upstream's reasoning"
            )
        if optional(reasoning, "context", str, "reasoning") not in (None, "auto"):
            raise unsupported("reasoning.context", "Chat Completions upstreams have effort alone")
        if optional(reasoning, "mode", str, "reasoning") not in (None, "standard"):
            raise unsupported("reasoning.mode", "Chat Completions upstreams have effort alone")
        self.echo["reasoning"] = {"effort": effort, "summary": summary}

    def read_metadata(self) -> None:
        metadata = optional(self.body, "metadata", dict) or {}
        if len(metadata) > _MAX_METADATA:
            raise invalid("metadata", f"must have at most {_MAX_METADATA} members")
        for name, value in metadata.items():
            if not isinstance(value, str) or len(value) > _MAX_METADATA_VALUE or len(name) > _MAX_METADATA_KEY:
                limits = f"names of {_MAX_METADATA_KEY} and strings of {_MAX_METADATA_VALUE} characters at most"
                raise invalid(f"metadata.{name[:_MAX_METADATA_KEY]}", f"expected {limits}")
        self.echo["metadata"] = metadata

    def read_upstream(self) -> None:
        upstream = optional(self.body, "upstream", dict) or {}
        for name in upstream:
            if name in _OURS or name in self.parameters:
                raise invalid(f"upstream.{name}", "it is set by other parameters")
        self.parameters |= upstream


def _tool(tool: Any, param: str) -> Json:
    """A tool as the response object repeats it."""
    if not isinstance(tool, dict):
        raise invalid(param, "expected an object", "invalid_type")
    kind = required(tool, "type", str, param)
    if kind != "function":
        raise unsupported(path(param, "type"), f"only functions can be called, not {kind[:64]!r}")
    for name in ("defer_loading", "allowed_callers", "async", "output_schema"):
        if tool.get(name) not in (None, False, ["direct"]):
            raise unsupported(path(param, name), "Chat Completions upstreams have no such functions")
    known = ("type", "name", "description", "parameters", "strict")
    only(tool, (*known, "defer_loading", "allowed_callers", "async", "output_schema"), param)
    return {
        "type": "function",
        "name": required(tool, "name", str, param),
        "description": optional(tool, "description", str, param),
        "parameters": optional(tool, "parameters", dict, param),
        "strict": optional(tool, "strict", bool, param),
    }


def _function(tool: Json) -> Json:
    return {name: value for name, value in tool.items() if name != "type" and value is not None}


def _tool_choice(choice: Any) -> Any:
    """`tool_choice` in the words of Chat Completions."""
    if isinstance(choice, str):
        return one_of(choice, ("none", "auto", "required"), "tool_choice")
    if not isinstance(choice, dict):
        raise invalid("tool_choice", "expected a string or an object", "invalid_type")
    match choice.get("type"):
        case "function":
            only(choice, ("type", "name"), "tool_choice")
            return {"type": "function", "function": {"name": required(choice, "name", str, "tool_choice")}}
        case "allowed_tools":
            only(choice, ("type", "mode", "tools"), "tool_choice")
            mode = one_of(required(choice, "mode", str, "tool_choice"), ("auto", "required"), "tool_choice.mode")
            allowed = [
                _allowed(tool, f"tool_choice.tools[{index}]")
                for index, tool in enumerate(required(choice, "tools", list, "tool_choice"))
            ]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
        case kind:
            raise unsupported("tool_choice.type", f"only functions can be called, not {str(kind)[:64]!r}")


def _allowed(tool: Any, param: str) -> Json:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise unsupported(param, "only functions can be called")
    return {"type": "function", "function": {"name": required(tool, "name", str, param)}}


def _response_format(format_: Json) -> Json | None:
    """`text.format` in the words of Chat Completions; None for plain text."""
    match format_.get("type"):
        case "text":
            only(format_, ("type",), "text.format")
            return None
        case "json_object":
            only(format_, ("type",), "text.format")
            return {"type": "json_object"}
        case "json_schema":
            only(format_, ("type", "name", "schema", "description", "strict"), "text.format")
            required(format_, "name", str, "text.format")
            required(format_, "schema", dict, "text.format")
            optional(format_, "description", str, "text.format")
            optional(format_, "strict", bool, "text.format")
            schema = {name: value for name, value in format_.items() if name != "type" and value is not None}
            return {"type": "json_schema", "json_schema": schema}
        case _:
            raise invalid("text.format.type", "supported values are 'text', 'json_object', 'json_schema'")
