"""A tool call, what a reader makes of text, and the values both need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ToolCall:
    """One call. `arguments` is the text of a JSON object, as OpenAI sends it."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Reading:
    """What stands at the beginning of a text: `length` characters that hold `calls`; none: they are ordinary text."""

    length: int
    calls: tuple[ToolCall, ...] = ()


class ToolFormat(Protocol):
    """How a family writes tool calls.

    Attributes:
        name: Key in the table of formats.
        starts: Strings that open a call.
        closers: Characters at which a call can be complete; no need to look before one has come.
        at_head: Whether a start counts only where nothing but calls stands before it.
    """

    @property
    def name(self) -> str: ...
    @property
    def starts(self) -> tuple[str, ...]: ...
    @property
    def closers(self) -> str: ...
    @property
    def at_head(self) -> bool: ...

    def read(self, text: str, tools: Tools, *, final: bool) -> Reading | None:
        """Read a call at the beginning of `text`, which opens with a start.

        Returns None while more text is needed. What a text gives, every longer text with the same beginning gives too.
        `final` says that nothing follows; None then means that there is no call.
        """


@dataclass(frozen=True)
class ToolSplit:
    """A piece of an answer: content, and the calls complete in it."""

    content: str = ""
    calls: tuple[ToolCall, ...] = field(default=())

    def __add__(self, other: ToolSplit) -> ToolSplit:
        return ToolSplit(self.content + other.content, self.calls + other.calls)


def make_call(name: Any, arguments: Any) -> ToolCall | None:
    """A call from decoded values; None if they are not a name and an object (or the text of one)."""
    if isinstance(arguments, str):
        arguments = load_json(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        return None
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def calls_from_json(value: Any) -> tuple[ToolCall, ...]:
    """Calls from `{"name": ..., "arguments" | "parameters": {...}}` or a list of them; empty if any is something else."""
    rows = value if isinstance(value, list) else [value]
    calls = []
    for row in rows:
        if not isinstance(row, Mapping):
            return ()
        call = make_call(row.get("name"), row.get("arguments", row.get("parameters", {})))
        if call is None:
            return ()
        calls.append(call)
    return tuple(calls)


def load_json(text: str) -> Any:
    """Value of strict JSON; None if it is not (JSON's own null is None too, and no call has use for it)."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def parameter_value(text: str, tools: Tools, name: str, key: str) -> Any:
    """Value of an argument written as bare text: by the tool's schema where it has a type, else JSON where it is JSON."""
    schema = parameters_of(tools, name).get("properties", {}).get(key, {})
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds == ["string"]:
        return text
    stripped = text.strip()
    if stripped == "null" and (kinds is None or "null" in kinds):
        return None
    value = load_json(stripped)
    if value is None or (kinds is not None and "string" in kinds and isinstance(value, str)):
        return text
    return value


def parameters_of(tools: Tools, name: str) -> Mapping[str, Any]:
    """The schema of a tool's parameters; empty if the tool is unknown."""
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            return function.get("parameters") or {}
    return {}


def balanced_end(text: str, start: int, quotes: str = '"') -> int | None:
    """Where the bracket at `start` is closed, one past it; None if it is not. Brackets in strings do not count."""
    depth = 0
    quote = ""
    place = start
    while place < len(text):
        letter = text[place]
        if quote:
            if letter == "\\":
                place += 1
            elif letter == quote:
                quote = ""
        elif letter in quotes:
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
