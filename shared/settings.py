"""Every setting, its environment variable, default and bounds; read once per process, at its start."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared import json_text

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")

Seconds = Annotated[float, Field(ge=0.001, le=31_536_000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1, le=2_147_483_647)]


class InvalidSettings(Exception):
    """A setting is missing or malformed; the message names the variable and what it must be."""


class Settings(BaseSettings):
    """The process's settings, immutable. Times are in seconds, sizes in bytes.

    Build it with `Settings.from_env()`, which turns a bad value into one line that names it.
    """

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore", env_ignore_empty=True)

    redis_url: str = Field("redis://127.0.0.1:6379/0", validation_alias=AliasChoices("REDIS_URL"))
    openai_api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("OPENAI_API_KEY"))
    openai_base_url: str | None = Field(None, validation_alias=AliasChoices("OPENAI_BASE_URL"))
    openai_org_id: str | None = Field(None, validation_alias=AliasChoices("OPENAI_ORG_ID"))
    openai_project_id: str | None = Field(None, validation_alias=AliasChoices("OPENAI_PROJECT_ID"))
    openai_custom_headers: str | None = Field(None, validation_alias=AliasChoices("OPENAI_CUSTOM_HEADERS"))

    upstream: Literal["completions", "responses"] = Field(
        "completions", validation_alias=AliasChoices("PIROPIRO_UPSTREAM")
    )
    model: str = Field("gpt-4o-mini", pattern=r"\S", validation_alias=AliasChoices("PIROPIRO_MODEL"))
    max_jobs: Count = Field(200, validation_alias=AliasChoices("PIROPIRO_MAX_JOBS"))
    retention: Seconds = Field(3600, validation_alias=AliasChoices("PIROPIRO_RETENTION"))
    keepalive: Seconds = Field(15, validation_alias=AliasChoices("PIROPIRO_KEEPALIVE"))
    write_timeout: Seconds = Field(60, validation_alias=AliasChoices("PIROPIRO_WRITE_TIMEOUT"))
    max_body: Bytes = Field(1_048_576, validation_alias=AliasChoices("PIROPIRO_MAX_BODY"))
    max_queue: Count = Field(1000, validation_alias=AliasChoices("PIROPIRO_MAX_QUEUE"))
    max_attempts: Count = Field(3, validation_alias=AliasChoices("PIROPIRO_MAX_ATTEMPTS"))
    max_output: Bytes = Field(4_194_304, validation_alias=AliasChoices("PIROPIRO_MAX_OUTPUT"))
    lease: Seconds = Field(3, validation_alias=AliasChoices("PIROPIRO_LEASE"))
    stall_timeout: Seconds = Field(60, validation_alias=AliasChoices("PIROPIRO_STALL_TIMEOUT"))
    job_timeout: Seconds = Field(600, validation_alias=AliasChoices("PIROPIRO_JOB_TIMEOUT"))
    queue_timeout: Seconds = Field(300, validation_alias=AliasChoices("PIROPIRO_QUEUE_TIMEOUT"))
    upstream_retries: int = Field(2, ge=0, le=100, validation_alias=AliasChoices("PIROPIRO_UPSTREAM_RETRIES"))
    continue_params: Annotated[dict[str, Any], NoDecode] = Field(
        {"continue_final_message": True, "add_generation_prompt": False},
        validation_alias=AliasChoices("PIROPIRO_CONTINUE_PARAMS"),
    )
    drain: float = Field(30, ge=0, le=31_536_000, allow_inf_nan=False, validation_alias=AliasChoices("PIROPIRO_DRAIN"))
    linger: float = Field(0, ge=0, le=3600, allow_inf_nan=False, validation_alias=AliasChoices("PIROPIRO_LINGER"))

    @field_validator("continue_params", mode="before")
    @classmethod
    def _json_object(cls, value: object) -> object:
        try:
            return json_text.loads(value.encode()) if isinstance(value, str) else value
        except ValueError:
            raise ValueError("must be a JSON object") from None

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if urlsplit(url).scheme not in REDIS_SCHEMES:
            raise ValueError(f"must begin with one of {', '.join(s + '://' for s in REDIS_SCHEMES)}")
        return url

    @field_validator("openai_base_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise ValueError("must begin with http:// or https://, and name a host")
        return url

    @field_validator("openai_api_key")
    @classmethod
    def _header_value(cls, key: SecretStr | None) -> SecretStr | None:
        """What a header can carry; secrets often end in a line feed that is none of theirs."""
        secret = key.get_secret_value().strip() if key is not None else ""
        if not (secret.isascii() and (secret.isprintable() or not secret)):
            raise ValueError("must be printable ASCII")
        return SecretStr(secret) if secret else None

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment.

        Raises:
            InvalidSettings: one line that names each bad variable.
        """
        try:
            return cls()
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
            )
            raise InvalidSettings("bad setting: " + "; ".join(problems)) from None
