"""Gemma's calls: `call:name{key:value,...}` between tags, strings between quote tokens, keys bare."""

from __future__ import annotations

import re
from typing import Any

from vlm_runtime.text.tools.call import ToolCall, Tools, load_json, make_call
from vlm_runtime.text.tools.tagged import Tagged

_HEAD = re.compile(r"\s*call:([^{\s]+)\s*(?=\{)")
_MAX_DEPTH = 64


class _Malformed(ValueError):
    pass


def _gemma(name: str, start: str, end: str, quote: str) -> Tagged:
    def parse(body: str, tools: Tools) -> tuple[ToolCall, ...]:
        head = _HEAD.match(body)
        if head is None:
            return ()
        try:
            value, place = _value(body, head.end(), quote, 0)
        except _Malformed:
            return ()
        call = make_call(head[1], value) if not body[place:].strip() else None
        return (call,) if call else ()

    return Tagged(name, start, end, parse, lambda body: body.count(quote) % 2 == 1)


def _value(text: str, place: int, quote: str, depth: int) -> tuple[Any, int]:
    """The value at `place` and where it ends."""
    if depth > _MAX_DEPTH:
        raise _Malformed
    if text.startswith(quote, place):
        return _string(text, place, quote)
    if text.startswith("{", place):
        return _mapping(text, place, quote, depth)
    if text.startswith("[", place):
        return _list(text, place, quote, depth)
    match = re.compile(r"[^,{}\[\]]*").match(text, place)
    if match is None or not match[0].strip():
        raise _Malformed
    bare = match[0].strip()
    value = load_json(bare)
    return (None if bare == "null" else bare if value is None else value), match.end()


def _string(text: str, place: int, quote: str) -> tuple[str, int]:
    start = place + len(quote)
    end = text.find(quote, start)
    if end < 0:
        raise _Malformed
    return text[start:end], end + len(quote)


def _mapping(text: str, place: int, quote: str, depth: int) -> tuple[dict[str, Any], int]:
    result: dict[str, Any] = {}
    place = _blank(text, place + 1)
    while not text.startswith("}", place):
        if text.startswith(quote, place):
            key, place = _string(text, place, quote)
            place = _blank(text, place)
        else:
            colon = text.find(":", place)
            key, place = text[place:colon].strip(), colon
        if place < 0 or not key or not text.startswith(":", place):
            raise _Malformed
        result[key], place = _value(text, _blank(text, place + 1), quote, depth + 1)
        place = _next(text, place, "}")
    return result, place + 1


def _list(text: str, place: int, quote: str, depth: int) -> tuple[list[Any], int]:
    result: list[Any] = []
    place = _blank(text, place + 1)
    while not text.startswith("]", place):
        value, place = _value(text, place, quote, depth + 1)
        result.append(value)
        place = _next(text, place, "]")
    return result, place + 1


def _next(text: str, place: int, closer: str) -> int:
    """Past a comma, or at the closer."""
    place = _blank(text, place)
    if text.startswith(closer, place):
        return place
    if not text.startswith(",", place):
        raise _Malformed
    return _blank(text, place + 1)


def _blank(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


GEMMA = _gemma("gemma", "<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = _gemma("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>")
