"""Grammars that make an answer call a tool, in the format the checkpoint was trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm_runtime.errors import ToolCallError
from vlm_runtime.text.structured import GrammarSpec
from vlm_runtime.text.tools.call import ToolFormat, Tools

if TYPE_CHECKING:
    from vlm_runtime.loading.tokenizer import Tokenizer

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_GEMMA_VALUES = """
g_any: g_string | g_list | g_map | g_plain
g_plain: /-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null/
g_list: "[" (g_any ("," g_any)*)? "]"
g_map: "{" (g_pair ("," g_pair)*)? "}"
g_pair: /[A-Za-z_][A-Za-z0-9_-]*/ ":" g_any
"""


def tool_grammar(
    format: ToolFormat,
    tools: Tools,
    tokenizer: Tokenizer,
    *,
    name: str | None = None,
    parallel: bool = True,
    chat_template: str = "",
) -> GrammarSpec:
    """A grammar whose every text is one call or, if `parallel`, several.

    Args:
        format: How the checkpoint writes calls.
        tools: The request's tools.
        tokenizer: Of the checkpoint; tells which marks are special tokens.
        name: The only tool to call (`tool_choice` naming a function); None allows each.
        parallel: Whether several calls may follow one another.
        chat_template: Decides between spellings of one format (Mistral's).

    Raises:
        ToolCallError: There is no tool, no tool of that name, or a name or schema cannot be used.
    """
    functions = [tool.get("function", tool) for tool in tools]
    chosen = [function for function in functions if name is None or function.get("name") == name]
    if not chosen:
        known = ", ".join(str(function.get("name")) for function in functions)
        raise ToolCallError(
            f"tool_choice: expected one of the tools ({known or 'none given'}), got {name or 'required'}"
        )
    for function in chosen:
        if not isinstance(function.get("name"), str) or not _NAME.fullmatch(function["name"]):
            raise ToolCallError(
                f"tools: expected a name of letters, digits and _ . : -, got {function.get('name')!r:.80}"
            )
    writer = _Writer(tokenizer, chat_template, parallel)
    return GrammarSpec.lark(writer.grammar(format.name, chosen))


class _Writer:
    """Writes rules in llguidance's dialect of Lark, one format at a time."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str, parallel: bool) -> None:
        self._tokenizer, self._template, self._parallel = tokenizer, chat_template, parallel
        self._rules: list[str] = []

    def grammar(self, format: str, functions: Sequence[Mapping[str, Any]]) -> str:
        start = getattr(self, f"_{format}")(functions)
        return "\n".join([f"start: {start}", *self._rules])

    def _json_tags(self, functions: Sequence[Mapping[str, Any]]) -> str:
        body = self._json(_call_schema(functions, "arguments"))
        return self._several(f'{self._mark("<tool_call>")} "\\n" {body} "\\n" {self._mark("</tool_call>")}', '"\\n"')

    def _llama_json(self, functions: Sequence[Mapping[str, Any]]) -> str:
        return self._several(self._json(_call_schema(functions, "parameters")), '"; "')

    def _mistral(self, functions: Sequence[Mapping[str, Any]]) -> str:
        start = self._mark("[TOOL_CALLS]")
        if "[ARGS]" in self._template:
            calls = [
                f"{_text(function['name'])} {self._mark('[ARGS]')} {self._json(_parameters(function))}"
                for function in functions
            ]
            return self._several(f"{start} ({' | '.join(calls)})", "")
        return f'{start} " [" {self._several(self._json(_call_schema(functions, "arguments")), _text(", "))} "]"'

    def _qwen_xml(self, functions: Sequence[Mapping[str, Any]]) -> str:
        end = "</parameter>"  # without the line break before it, which belongs to the value as the model writes it
        calls = []
        for function in functions:
            pairs = [
                (
                    f"{_text(f'<parameter={key}>')} {_text(chr(10))} {self._free_value(schema, end)} {_text(chr(10))}",
                    needed,
                )
                for key, schema, needed in _properties(function)
            ]
            body = " ".join(pair if needed else f"({pair})?" for pair, needed in pairs)
            opening = _text(f"<function={function['name']}>\n")
            calls.append(f'{opening} {body} "</function>"')
        call = f'{self._mark("<tool_call>")} "\\n" ({" | ".join(calls)}) "\\n" {self._mark("</tool_call>")}'
        return self._several(call, '"\\n"')

    def _glm(self, functions: Sequence[Mapping[str, Any]]) -> str:
        calls = []
        for function in functions:
            pairs = [
                (
                    f"{self._mark('<arg_key>')} {_text(key)} {self._mark('</arg_key>')} {_text(chr(10))} "
                    f"{self._mark('<arg_value>')} {self._free_value(schema, '</arg_value>')} {_text(chr(10))}",
                    needed,
                )
                for key, schema, needed in _properties(function)
            ]
            body = " ".join(pair if needed else f"({pair})?" for pair, needed in pairs)
            calls.append(f"{_text(function['name'])} {_text(chr(10))} {body}")
        call = f"{self._mark('<tool_call>')} ({' | '.join(calls)}) {self._mark('</tool_call>')}"
        return self._several(call, '"\\n"')

    def _gemma(self, functions: Sequence[Mapping[str, Any]]) -> str:
        return self._gemma_call(functions, "<|tool_call>", "<tool_call|>", '<|"|>')

    def _function_gemma(self, functions: Sequence[Mapping[str, Any]]) -> str:
        return self._gemma_call(functions, "<start_function_call>", "<end_function_call>", "<escape>")

    def _gemma_call(self, functions: Sequence[Mapping[str, Any]], start: str, end: str, quote: str) -> str:
        self._rules += [f"g_string: {self._mark(quote)} {self._until(quote)}", *_GEMMA_VALUES.strip().splitlines()]
        calls = [
            f"{_text(function['name'] + '{')} {self._listed(function, ':', ',', self._gemma_value)} {_text('}')}"
            for function in functions
        ]
        return self._several(f"{self._mark(start)} {_text('call:')} ({' | '.join(calls)}) {self._mark(end)}", "")

    def _pythonic(self, functions: Sequence[Mapping[str, Any]]) -> str:
        calls = [
            f"{_text(function['name'] + '(')} {self._listed(function, '=', ', ', self._python_value)} {_text(')')}"
            for function in functions
        ]
        several = self._several(f"({' | '.join(calls)})", _text(", "))
        return f'"[" {several} "]"'

    def _several(self, call: str, separator: str) -> str:
        """One call, or any number of them with a separator."""
        self._rules.append(f"call_{len(self._rules)}: {call}")
        rule = self._rules[-1].split(":", 1)[0]
        return f"{rule} ({separator} {rule})*" if self._parallel else rule

    def _listed(self, function: Mapping[str, Any], equals: str, comma: str, value: Any) -> str:
        """Arguments with a comma between any two: all that are required, then any of the others in order."""
        rows = sorted(_properties(function), key=lambda row: not row[2])
        pairs = [(f"{_text(key + equals)} {value(schema)}", needed) for key, schema, needed in rows]
        first = next((place for place, (_, needed) in enumerate(pairs) if not needed), len(pairs))
        tail = "".join(f" ({_text(comma)} {pair})?" for pair, _ in pairs[first:])
        if first:
            return f" {_text(comma)} ".join(pair for pair, _ in pairs[:first]) + tail
        starts = [
            pairs[place][0] + "".join(f" ({_text(comma)} {pair})?" for pair, _ in pairs[place + 1 :])
            for place in range(len(pairs))
        ]
        return f"({' | '.join(starts)})?" if starts else '""'

    def _free_value(self, schema: Any, end: str, before: str = "") -> str:
        """A value written as bare text up to `end`, which is part of it; `before` stands between them where it can."""
        tail = f"{_text(before)} {self._mark(end)}" if before else self._mark(end)
        if isinstance(schema, Mapping) and schema.get("type") == "string":
            choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
            if choices:
                return f"({' | '.join(_text(str(choice)) for choice in choices)}) {tail}"
            return self._until(end)
        return f"{self._json(schema)} {tail}"

    def _gemma_value(self, schema: Any) -> str:
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        if kind in ("integer", "number", "boolean", "null"):
            return self._json(schema)
        return {"string": "g_string", "array": "g_list", "object": "g_map"}.get(str(kind), "g_any")

    def _python_value(self, schema: Any) -> str:
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        return {"boolean": '("True" | "False")', "null": '"None"'}.get(str(kind)) or self._json(schema)

    def _json(self, schema: Any) -> str:
        try:
            # a call is for programs: with free blanks a model may write them until its budget is spent
            spaced = {**schema, "x-guidance": _SPACING} if isinstance(schema, Mapping) else schema
            text = json.dumps(spaced, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ToolCallError(f"tools: expected parameters as a JSON schema, got: {error}") from error
        self._rules.append(f"json_{len(self._rules)}: %json {text}")
        return self._rules[-1].split(":", 1)[0]

    def _until(self, end: str) -> str:
        """Any text up to `end`, and `end`."""
        if (special := self._special(end)) is not None:
            self._rules.append(f"text_{len(self._rules)}: /(?s:.*)/ {special}")
        else:
            self._rules.append(f"text_{len(self._rules)}[suffix={_text(end)}]: /(?s:.*)/")
        return re.split(r"[\[:]", self._rules[-1], maxsplit=1)[0]

    def _special(self, text: str) -> str | None:
        token = self._tokenizer.added_tokens.get(text)
        return f"<[{token.id}]>" if token is not None and token.special else None

    def _mark(self, text: str) -> str:
        """A tag: the special token of that text where there is one, else the text."""
        return self._special(text) or _text(text)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _parameters(function: Mapping[str, Any]) -> Any:
    return function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def _properties(function: Mapping[str, Any]) -> list[tuple[str, Any, bool]]:
    schema = _parameters(function)
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    if any(not _NAME.fullmatch(key) for key in properties):
        raise ToolCallError(f"tools: {function['name']}: expected parameter names of letters, digits and _ . : -")
    return [(key, value, key in required) for key, value in properties.items()]


def _call_schema(functions: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Schema of `{"name": ..., key: {...}}` for each function."""
    rows = [
        {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, key: _parameters(function)},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return rows[0] if len(rows) == 1 else {"anyOf": rows}
