"""Llama's calls: a JSON object, or a Python list of calls, as the whole answer."""

from __future__ import annotations

import ast
from typing import Any

from vlm_runtime.text.tools.call import Reading, ToolCall, Tools, balanced_end, calls_from_json, load_json, make_call

_NAMES = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_DAMAGE = (SyntaxError, ValueError, RecursionError, MemoryError)


class LlamaJson:
    """`{"name": ..., "parameters": {...}}`, several of them separated by `;`, with or without the python tag."""

    name = "llama_json"
    starts = ("<|python_tag|>", "{")
    closers = "}"
    at_head = True

    def read(self, text: str, tools: Tools, *, final: bool) -> Reading | None:
        start = text.find("{")
        if text.startswith("<|python_tag|>"):
            between = text[len("<|python_tag|>") : None if start < 0 else start]
            if between.strip():
                return Reading(len("<|python_tag|>"))
        end = None if start < 0 else balanced_end(text, start)
        return None if end is None else Reading(end, calls_from_json(load_json(text[start:end])))


class Pythonic:
    """`[name(key=value, ...), ...]`, with or without Llama 4's python markers."""

    name = "pythonic"
    starts = ("<|python_start|>", "[")
    closers = "]>"
    at_head = True

    def read(self, text: str, tools: Tools, *, final: bool) -> Reading | None:
        marker = "<|python_start|>" if text.startswith("<|python_start|>") else ""
        start = len(text) - len(text[len(marker) :].lstrip())
        if start == len(text):
            return None
        if text[start] != "[":
            return Reading(max(1, len(marker)))
        end = balanced_end(text, start, quotes="\"'")
        if end is None:
            return None
        calls = _calls(text[start:end])
        if marker and calls:
            tail = "<|python_end|>"
            if not final and tail.startswith(text[end : end + len(tail)]) and not text.startswith(tail, end):
                return None
            end += len(tail) if text.startswith(tail, end) else 0
        return Reading(end, calls)


def _calls(source: str) -> tuple[ToolCall, ...]:
    try:
        tree = ast.parse(source.strip(), mode="eval").body
        rows = tree.elts if isinstance(tree, ast.List) else []
        calls = [make_call(_name(row), _arguments(row)) for row in rows]
    except _DAMAGE:
        return ()
    return tuple(call for call in calls if call) if calls and all(calls) else ()


def _name(node: ast.AST) -> str:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("expected name(key=value)")
    return ast.unparse(node.func)


def _arguments(node: Any) -> dict[str, Any]:
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("expected key=value")
    return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}


def _literal(node: ast.AST) -> Any:
    """A JSON value from a Python literal; JSON's own names for constants are read too."""
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) if key is not None else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("expected string keys")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None) or value in (float("inf"), float("-inf")):
        raise ValueError("expected a JSON value")
    # A JSON string literal may spell one character as two escapes, which Python reads as two lone surrogates.
    return value.encode("utf-16", "surrogatepass").decode("utf-16") if isinstance(value, str) else value


LLAMA_JSON = LlamaJson()
PYTHONIC = Pythonic()
