"""Mistral's calls: `[TOOL_CALLS]` before a JSON list, or before a name and a JSON object."""

from __future__ import annotations

import re

from vlm_runtime.text.tools.call import Reading, Tools, balanced_end, calls_from_json, load_json, make_call

START = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([^\s\[\]{}]+)\s*(?:\[CALL_ID\][^\[\]{}]*)?(?:\[ARGS\])?\s*(?=\{)")
_MAY_BE_NAMED = re.compile(r"\s*[^\s\[\]{}]*\s*(?:\[[^\]{}]*\]?[^\[\]{}]*)*")


class Mistral:
    """Both of Mistral's spellings; several named calls follow one another, each with its start or without."""

    name = "mistral"
    starts = (START,)
    closers = "]}"
    at_head = False

    def read(self, text: str, tools: Tools, *, final: bool) -> Reading | None:
        body = len(START)
        first = len(text) - len(text[body:].lstrip())
        if first == len(text):
            return None
        if text[first] == "[":
            end = balanced_end(text, first)
            return None if end is None else Reading(end, calls_from_json(load_json(text[first:end])))
        named = _NAMED.match(text, body)
        if named is None:
            return None if _MAY_BE_NAMED.fullmatch(text, body) else Reading(body)
        end = balanced_end(text, named.end())
        if end is None:
            return None
        call = make_call(named[1], load_json(text[named.end() : end]))
        return Reading(end, (call,) if call else ())


MISTRAL = Mistral()
