"""The script of a request: what it wants the simulator to say, at what pace, and how it shall fail.

A script travels as the body field `"simulator": {...}` or as the header `X-Simulator: {...}` (JSON); where
both name a field, the body wins. Unknown names and bad values are a 400. All fields are optional.

What is said
    text            the answer; cut into deltas as usual
    deltas          the answer as an exact list of strings, one per delta, `""` included
    tokens          exactly so many deltas: the answer, repeated or cut short
    reasoning       text streamed first, as `reasoning_content`
    tool_calls      `[{"name", "arguments"}]`, arguments a string or an object; replaces the answer unless a
                    text is scripted too
    refusal         text streamed as `refusal`; replaces the answer likewise
    finish_reason   instead of stop, tool_calls or length
    extra           object merged into the top level of every chunk
    raw_chunks      objects sent as they are instead of all that, then `[DONE]`; only for streams

When and how
    ttft            seconds until the first delta (0.25)
    interval        seconds from delta to delta (0.025 and a slight jitter; exact if scripted); 0 is flat out
    fragment        bytes per network write, so that frames are split anywhere
    crlf            end lines with CR LF
    comments        `: ping` at once and before every delta
    streamable      seconds since its beginning for which a response can be streamed again (as long as it is there)
    key             what counts as "the same request" (default: a hash of body and script)
    fault           one fault or a list of them

Faults are `{"kind": …, "times": N}`: with `times`, only the first N requests of the same key suffer it. All
that apply are applied. `after` is a number of deltas (0) that go out before; the chunk with the role, the one
with the finish_reason and usage do not count, and beyond the last delta it means before the finish_reason.

    status               answers `status` (500) at once; `message`, `type`, `code`, `retry_after` (seconds or
                         a date), `headers`
    slow_headers         sends nothing, not even headers, for `seconds` (a day)
    error                `after`: `data: {"error": …}` and `[DONE]`; `message`, `type`, `code`
    cut                  `after`: half a frame, then the connection closes without the chunked terminator; beyond
                         the last delta it means after the finish_reason: only usage and `[DONE]` are missing
    truncate             `after`: ends cleanly, but without finish_reason and `[DONE]`
    done_without_finish  `after`: `[DONE]`, but no finish_reason
    garbage              `after`: writes `text` (a data line with invalid JSON) as it is, and goes on
    stall                `after`: pauses for `seconds` (a day), and goes on

Without `stream`, error is a 500, cut half a body, truncate and done_without_finish leave finish_reason null,
garbage is the whole body, and stall comes before the answer.

On `/v1/responses`, error makes the response itself fail, and all others befall the connection: see
`simulator/responses.py`. `raw_chunks` are events there, and `extra` is merged into the response.
"""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from simulator.errors import ApiError

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
FOREVER = 86_400.0
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
_Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
_Printable = Annotated[str, Meta(pattern=r"^[\x20-\x7e]*$")]
_RESERVED = {"choices", "usage"}


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every fault has: for how many requests of its key it applies (None: all)."""

    times: Count | None = None

    @property
    def kind(self) -> str:
        """Its name in scripts and records."""
        return str(self.__struct_config__.tag)

    def applies(self, retry: int) -> bool:
        """Whether the request that comes after `retry` others of its key suffers it."""
        return self.times is None or retry < self.times


class StatusFault(Fault, frozen=True, tag="status"):
    """An HTTP error instead of an answer."""

    status: Annotated[int, Meta(ge=400, le=599)] = 500
    message: str = "The simulator was told to fail."
    type: str | None = None
    code: str | None = None
    retry_after: Seconds | _Printable | None = None
    headers: dict[_Printable, _Printable] = {}

    def error(self) -> ApiError:
        """The fault as the answer it gives."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            wait = self.retry_after
            headers["retry-after"] = wait if isinstance(wait, str) else f"{wait:g}"
        return ApiError(self.status, self.message, kind=self.type, code=self.code, headers=headers)


class SlowHeadersFault(Fault, frozen=True, tag="slow_headers"):
    """Silence before the response begins."""

    seconds: Seconds = FOREVER


class MidwayFault(Fault, frozen=True):
    """A fault that comes after so many deltas."""

    after: Count = 0


class ErrorFault(MidwayFault, frozen=True, tag="error"):
    """An error event, as servers send it when they fail in mid-stream."""

    message: str = "The simulator was told to fail in mid-stream."
    type: str = "server_error"
    code: str | None = None

    def error(self) -> ApiError:
        """The fault as an error; a stream sends its envelope."""
        return ApiError(500, self.message, kind=self.type, code=self.code)


class CutFault(MidwayFault, frozen=True, tag="cut"):
    """A lost connection."""


class TruncateFault(MidwayFault, frozen=True, tag="truncate"):
    """An end that says nothing about why."""


class DoneWithoutFinishFault(MidwayFault, frozen=True, tag="done_without_finish"):
    """An end that only claims to be one."""


class GarbageFault(MidwayFault, frozen=True, tag="garbage"):
    """Bytes that are no chunk."""

    text: str = 'data: {"id": "chatcmpl-, "choices": [}\n\n'


class StallFault(MidwayFault, frozen=True, tag="stall"):
    """Silence in mid-stream."""

    seconds: Seconds = FOREVER


InStream = ErrorFault | CutFault | TruncateFault | DoneWithoutFinishFault | GarbageFault | StallFault
AnyFault = StatusFault | SlowHeadersFault | InStream


class ToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    """One call the answer consists of."""

    name: str
    arguments: str | dict[str, Any] = "{}"

    @property
    def arguments_json(self) -> str:
        """The arguments as the JSON text that a model would write."""
        if isinstance(self.arguments, str):
            return self.arguments
        return msgspec.json.encode(self.arguments).decode()


class Script(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parsed script; the module's docstring explains each field."""

    text: str | None = None
    deltas: tuple[str, ...] | None = None
    tokens: Count | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    finish_reason: str | None = None
    extra: dict[str, Any] = {}
    raw_chunks: tuple[dict[str, Any], ...] | None = None
    ttft: Seconds = 0.25
    interval: Seconds | None = None
    fragment: _Positive | None = None
    crlf: bool = False
    comments: bool = False
    streamable: Seconds | None = None
    key: str | None = None
    fault: AnyFault | tuple[AnyFault, ...] = ()

    def faults(self, retry: int) -> list[AnyFault]:
        """The faults that the request coming after `retry` others of its key suffers."""
        planned = self.fault if isinstance(self.fault, tuple) else (self.fault,)
        return [fault for fault in planned if fault.applies(retry)]


def parse_script(field: object, header: bytes | None) -> Script:
    """Read the body's `simulator` field (None: absent) and the header; ApiError 400 for anything unknown."""
    fields: dict[str, Any] = {}
    for source in (_decode_header(header), {} if field is None else field):
        if not isinstance(source, dict):
            raise ApiError(400, "A script is a JSON object.", param="simulator")
        fields |= source
    try:
        script = msgspec.convert(fields, Script)
    except msgspec.ValidationError as error:
        raise invalid(error, within="simulator") from None
    if _RESERVED & script.extra.keys():
        raise ApiError(400, "`extra` cannot replace choices or usage.", param="simulator.extra")
    if script.deltas is not None and script.text is not None:
        raise ApiError(400, "Script either `text` or `deltas`.", param="simulator.deltas")
    return script


def invalid(error: msgspec.ValidationError, within: str = "") -> ApiError:
    """The 400 for a value of the wrong shape; `param` is its dotted path below `within`."""
    message = str(error)
    path = re.search(r" - at `\$(.*?)`$", message)
    missing = re.search(r"(?:required|unknown) field `(\w+)`", message)
    param = within + (path[1].replace("[...]", "") if path else "") + (f".{missing[1]}" if missing else "")
    return ApiError(400, message.replace("`$", f"`{within or 'body'}"), param=param.lstrip(".") or None)


def _decode_header(header: bytes | None) -> object:
    try:
        return msgspec.json.decode(header) if header else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ApiError(400, "The header X-Simulator is not valid JSON.", param="simulator") from None
