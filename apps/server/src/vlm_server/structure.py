"""Structured output and tools: from the clients' fields to a grammar and template arguments."""

from __future__ import annotations

from typing import Any

from .errors import ApiError


def structure(
    processor: Any,
    *,
    response_format: dict[str, Any] | None = None,
    tools: list[dict[str, Any]] | None = None,
    tool_choice: Any = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Generation options and template arguments. Raises ApiError naming the field."""
    if response_format is not None and response_format.get("type") != "text":
        raise ApiError(400, "response_format: only text is supported", param="response_format")
    if tools:
        raise ApiError(400, "tools: not supported", param="tools")
    if tool_choice not in (None, "none", "auto"):
        raise ApiError(400, "tool_choice: needs tools", param="tool_choice")
    return {}, {}
