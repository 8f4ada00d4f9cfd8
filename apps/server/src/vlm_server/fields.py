"""Request bodies: what each endpoint accepts, in its clients' words. Anything else is refused by name.

A field at null is a field left out. Fields of OpenAI's and Anthropic's interfaces that this server does not have are accepted at
their documented default, where leaving them out would mean the same.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_MESSAGES = 20_000
MAX_DEPTH = 128


class Body(BaseModel):
    """What all endpoints take. `defaults`: fields that are accepted at this value only."""

    model_config = ConfigDict(extra="forbid", strict=True)
    defaults: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: str | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    thinking_token_budget: int | None = None
    thinking_start_token: str | None = None
    thinking_end_token: str | None = None
    resize_shape: int | list[int] | None = None
    max_pixels: int | list[int] | None = None
    min_pixels: int | list[int] | None = None
    fps: float | None = None
    adapter_path: str | None = None
    user: str | None = None
    service_tier: str | None = None
    metadata: dict[str, str | int | float | bool | None] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, values: Any) -> Any:
        """Null means left out; so does a documented default of a field that is not offered."""
        if not isinstance(values, dict):
            return values
        for name, value in values.items():
            if name not in cls.model_fields:
                continue  # refused by name below
            if isinstance(value, list) and len(value) > MAX_MESSAGES:
                raise ValueError(f"{name}: expected at most {MAX_MESSAGES} items, got {len(value)}")
            _check(value, name)
        return {
            name: value
            for name, value in values.items()
            if value is not None and not (name in cls.defaults and value in cls.defaults[name])
        }

    def options(self) -> dict[str, Any]:
        """Generation options that were set."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}


OPTIONS = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "seed", "stop", "enable_thinking", "thinking_budget", "thinking_token_budget"),
    *("thinking_start_token", "thinking_end_token", "resize_shape", "max_pixels", "min_pixels", "fps"),
)


def _check(value: Any, name: str, depth: int = 0) -> None:
    """Raise ValueError where a value is too deep for what reads it later, or holds text that no encoding can write."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{name}: expected text, got half of a surrogate pair") from None
    elif isinstance(value, (list, dict)):
        if depth == MAX_DEPTH:
            raise ValueError(f"{name}: expected at most {MAX_DEPTH} levels, got more")
        for inner in value:
            _check(inner, name, depth + 1)
        for inner in value.values() if isinstance(value, dict) else ():
            _check(inner, name, depth + 1)


class StreamOptions(BaseModel):
    """include_obfuscation: this server pads nothing, so only false is accepted."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatBody(Body):
    """POST /chat/completions and /generate."""

    defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "store": (False,),
        "modalities": (["text"],),
        "verbosity": ("medium",),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "top_logprobs": (0,),
    }

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


class ResponsesBody(Body):
    """POST /responses."""

    defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "background": (False,),
        "truncation": ("disabled",),
        "include": ([],),
        "top_logprobs": (0,),
    }

    input: str | list[dict[str, Any]] | None = None
    messages: list[dict[str, Any]] | None = Field(default=None, max_length=MAX_MESSAGES)
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    max_tokens: int | None = None
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    reasoning: dict[str, Any] | None = None
    store: bool = True


class MessagesBody(Body):
    """POST /messages (Anthropic)."""

    defaults: ClassVar[dict[str, tuple[Any, ...]]] = {"mcp_servers": ([],)}

    system: str | list[dict[str, Any]] | None = None
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class CountBody(Body):
    """POST /messages/count_tokens (Anthropic)."""

    system: str | list[dict[str, Any]] | None = None
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class UnloadBody(BaseModel):
    """POST /unload. model: which; left out: all."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
