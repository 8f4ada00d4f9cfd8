"""Calls between two tags: JSON (Hermes, Qwen), XML functions (Qwen3-Coder, Qwen3.5), key-value tags (GLM)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vlm_runtime.text.tools.call import (
    Reading,
    ToolCall,
    Tools,
    calls_from_json,
    load_json,
    make_call,
    parameter_value,
)

Parse = Callable[[str, Tools], tuple[ToolCall, ...]]

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


@dataclass(frozen=True)
class Tagged:
    """A format whose calls stand between a start and an end tag.

    Attributes:
        name: Key in the table of formats.
        start: Tag that opens a call.
        end: Tag that closes it, unless it stands inside a literal.
        parse: Calls of the text between the tags; empty if it holds none.
        is_inside: Whether a text between the tags ends inside a literal.
    """

    name: str
    start: str
    end: str
    parse: Parse
    is_inside: Callable[[str], bool]
    at_head: bool = False

    @property
    def starts(self) -> tuple[str, ...]:
        return (self.start,)

    @property
    def closers(self) -> str:
        return self.end[-1]

    def read(self, text: str, tools: Tools, *, final: bool) -> Reading | None:
        body = len(self.start)
        place = text.find(self.end, body)
        while place >= 0:
            if not self.is_inside(text[body:place]):
                return Reading(place + len(self.end), self.parse(text[body:place], tools))
            place = text.find(self.end, place + 1)
        if final and (calls := self.parse(text[body:], tools)):  # the end tag may have been the end of the answer
            return Reading(len(text), calls)
        return None


def _parse_json(body: str, tools: Tools) -> tuple[ToolCall, ...]:
    return calls_from_json(load_json(body))


def _in_json_string(body: str) -> bool:
    return re.sub(r"\\.", "", body, flags=re.DOTALL).count('"') % 2 == 1


def _parse_xml(body: str, tools: Tools) -> tuple[ToolCall, ...]:
    function = _FUNCTION.fullmatch(body)
    if function is None or _PARAMETER.sub("", function[2]).strip():
        return ()
    name = function[1].strip()
    arguments = {
        key.strip(): parameter_value(value, tools, name, key.strip()) for key, value in _PARAMETER.findall(function[2])
    }
    call = make_call(name, arguments)
    return (call,) if call else ()


def _in_parameter(body: str) -> bool:
    return body.rfind("<parameter=") > body.rfind("</parameter>")


def _parse_pairs(body: str, tools: Tools) -> tuple[ToolCall, ...]:
    name, mark, pairs = body.partition("<arg_key>")
    name, pairs = name.strip(), mark + pairs
    if not name or any(letter in name for letter in "<>{}\n") or _ARGUMENT.sub("", pairs).strip():
        return ()
    arguments = {
        key.strip(): parameter_value(value, tools, name, key.strip()) for key, value in _ARGUMENT.findall(pairs)
    }
    call = make_call(name, arguments)
    return (call,) if call else ()


def _in_pair(body: str) -> bool:
    return body.rfind("<arg_value>") > body.rfind("</arg_value>")


JSON_TAGS = Tagged("json_tags", "<tool_call>", "</tool_call>", _parse_json, _in_json_string)
QWEN_XML = Tagged("qwen_xml", "<tool_call>", "</tool_call>", _parse_xml, _in_parameter)
GLM = Tagged("glm", "<tool_call>", "</tool_call>", _parse_pairs, _in_pair)
