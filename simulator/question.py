"""The request body of `/v1/chat/completions`: its validation, and the parts that shape the answer."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from simulator.errors import ApiError
from simulator.script import invalid


class Message(Struct, frozen=True):
    """One message; its other fields do not matter here."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The content's text; parts of other types (images, audio) are skipped."""
        if isinstance(self.content, list):
            return "".join(part["text"] for part in self.content if isinstance(part.get("text"), str))
        return self.content or ""


class StreamOptions(Struct, frozen=True):
    """The part of `stream_options` that is honoured."""

    include_usage: bool | None = None


class Question(Struct, frozen=True):
    """The parameters that matter here; all others are accepted and ignored, as an upstream does."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    simulator: Any = None

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def limit(self) -> int | None:
        """The most deltas that the answer may have."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def prefix(self) -> str:
        """What a last message of the assistant has said already; empty if the last is another's."""
        return self.messages[-1].text if self.messages[-1].role == "assistant" else ""

    @property
    def asked(self) -> tuple[Message, ...]:
        """The messages that the answer is computed from: all but such a prefix."""
        return self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages

    @property
    def prompt_tokens(self) -> int:
        """A plausible number for usage."""
        return 3 + sum(4 + len(message.text) // 3 for message in self.messages)


_decoder = msgspec.json.Decoder(Question)


def parse_question(body: bytes) -> Question:
    """Read a body; ApiError 400 if it is no JSON or a parameter is missing or wrong, 404 for a missing- model."""
    try:
        question = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request: {error}") from None
    if question.model.startswith("missing-"):
        raise unknown_model(question.model)
    return question


def unknown_model(model: str) -> ApiError:
    """The 404 for a model that is not there."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")
