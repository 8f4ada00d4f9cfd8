"""Structured output and tools: from the clients' fields to a grammar, template arguments and a way to read calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlm_runtime import TOOL_FORMATS, GrammarSpec, ToolFormat, detect_format, tool_grammar

from .errors import ApiError

_PREFACE = """You may call functions. Their signatures, one a line:
{signatures}
To call one, answer with <tool_call>{{"name": ..., "arguments": {{...}}}}</tool_call>."""


@dataclass(frozen=True)
class Structure:
    """grammar: what the answer must look like. template: arguments of the chat template. format: how calls are written, where
    there are tools. preface: system text for templates that know no tools."""

    grammar: GrammarSpec | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    format: ToolFormat | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    preface: str | None = None


def structure(
    processor: Any,
    *,
    response_format: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: Any = None,
    parallel: bool = True,
) -> Structure:
    """What the fields ask for. Raises ApiError and ToolCallError naming the field."""
    grammar = _format(response_format)
    name = _choice(tool_choice, bool(tools))
    if not tools or name == "none":
        return Structure(grammar)
    for index, tool in enumerate(tools):
        if tool.get("type", "function") != "function" or not isinstance(tool.get("function"), Mapping):
            raise ApiError(400, f"tools[{index}]: expected a function tool", param=f"tools[{index}]")
    if grammar is not None:
        raise ApiError(400, "response_format: cannot be used together with tools", param="response_format")
    template = _template(processor)
    taught = detect_format(template)
    form = taught or TOOL_FORMATS["json_tags"]
    if name != "auto":
        only = None if name == "required" else name[len("function:") :]
        grammar = tool_grammar(
            form, tools, processor.tokenizer, name=only, parallel=parallel and only is None, chat_template=template
        )
    if taught is not None:
        return Structure(grammar, {"tools": list(tools)}, form, tools)
    signatures = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return Structure(grammar, {}, form, tools, _PREFACE.format(signatures=signatures))


def _template(processor: Any) -> str:
    templates = processor.tokenizer.chat_templates
    return templates.get("tool_use") or templates.get("default") or processor.family.chat_template or ""


def _format(given: Mapping[str, Any] | None) -> GrammarSpec | None:
    if given is None:
        return None
    match given.get("type"):
        case "text":
            return None
        case "json_object":
            return GrammarSpec.json_object()
        case "json_schema":
            outer = given.get("json_schema")
            schema = outer.get("schema") if isinstance(outer, Mapping) else None
            if not isinstance(schema, Mapping):
                raise ApiError(400, "response_format.json_schema.schema: expected a schema", param="response_format")
            return GrammarSpec.json_schema(schema)
        case kind:
            message = f"response_format.type: expected text, json_object or json_schema, got {kind!r}"
            raise ApiError(400, message, param="response_format")


def _choice(given: Any, has_tools: bool) -> str:
    """none, auto, required, or function:NAME."""
    if given is None:
        return "auto"
    if isinstance(given, str) and given in ("none", "auto", "required"):
        name = given
    elif isinstance(given, Mapping) and given.get("type") == "function":
        name = f"function:{(given.get('function') or given).get('name')}"
    else:
        raise ApiError(400, f"tool_choice: {given!r} is not supported", param="tool_choice")
    if not has_tools and name not in ("none", "auto"):
        raise ApiError(400, "tool_choice: needs tools", param="tool_choice")
    return name
