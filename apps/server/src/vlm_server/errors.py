"""Errors on the wire: what went wrong, which field, which status. One shape for OpenAI's clients, one for Anthropic's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlm_kernels.errors import VlmError
from vlm_models import ConfigError, ModalityError, ProcessingError, WeightError
from vlm_runtime.errors import (
    CapacityError,
    GrammarError,
    LoadError,
    MediaError,
    OptionError,
    PromptError,
    RequestCancelled,
    ToolCallError,
)

_REQUEST = (OptionError, PromptError, MediaError, GrammarError, ToolCallError, ModalityError, ProcessingError)
_LOAD = (LoadError, ConfigError, WeightError)
_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(VlmError):
    """An answer that is an error. param: the field to blame."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self, *, is_anthropic: bool = False) -> dict[str, Any]:
        """What goes over the wire."""
        kind = _ANTHROPIC_KINDS.get(self.status, "api_error")
        if is_anthropic:
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def as_api_error(error: Exception) -> ApiError:
    """The status an exception deserves."""
    if isinstance(error, ApiError):
        return error
    message = str(error) or type(error).__name__
    if isinstance(error, CapacityError):
        return ApiError(429, message, code="capacity")
    if isinstance(error, RequestCancelled):
        return ApiError(503, message, code="cancelled")
    if isinstance(error, _REQUEST):
        return ApiError(400, message, param=_field(message), code=type(error).__name__)
    if isinstance(error, _LOAD):
        return ApiError(404, message, param="model", code="model_not_found")
    if isinstance(error, VlmError):
        return ApiError(500, message, code=type(error).__name__)
    return ApiError(500, f"internal error: {type(error).__name__}", code="internal_error")


def _field(message: str) -> str | None:
    """The field that an option's message begins with: `temperature: expected...`."""
    match = re.match(r"([a-z_]+(?:\[[^\]]*\])?(?:\.[a-z_]+)*):? ", message)
    return match[1] if match and ("_" in match[1] or ": " in message[: len(match[1]) + 2]) else None


def from_validation(problems: Sequence[Any]) -> ApiError:
    """The first problem of a request body, naming its field."""
    first = problems[0]
    place = [str(part) for part in first.get("loc", ()) if part not in ("body", "str", "int", "float")]
    name = ".".join(part for part in place if not part.startswith(("list[", "dict["))) or "body"
    if first.get("type") == "extra_forbidden":
        return ApiError(400, f"{name}: this field is not supported here", param=name, code="unsupported_field")
    if first.get("type") == "json_invalid":
        return ApiError(400, "body: expected valid JSON", param="body", code="invalid_json")
    message = str(first.get("msg", "is not valid")).removeprefix("Value error, ")
    if name == "body" and (said := re.match(r"([a-z_]+): ", message)):
        return ApiError(400, message, param=said[1], code="invalid_value")
    return ApiError(400, f"{name}: {message}", param=name, code="invalid_value")
