from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import AddedToken

from vlm_runtime.errors import ToolCallError
from vlm_runtime.loading.tokenizer import Tokenizer
from vlm_runtime.text.detokenizer import Detokenizer
from vlm_runtime.text.structured import Grammar
from vlm_runtime.text.tools import TOOL_FORMATS as FORMATS
from vlm_runtime.text.tools import parse_tool_calls
from vlm_runtime.text.tools.choice import tool_grammar

pytest.importorskip("llguidance")
MARKS = [
    "<|tool_call>", "<tool_call|>", '<|"|>', "[TOOL_CALLS]", "[ARGS]", "<start_function_call>", "<end_function_call>",
    "<escape>",
]  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 12},
                    "days": {"type": "integer", "minimum": 0, "maximum": 20},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "sure": {"type": "boolean"},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
    {
        "type": "function",
        "function": {
            "name": "find",
            "parameters": {
                "type": "object",
                "properties": {
                    "near": {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False},
                    "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
                },
                "additionalProperties": False,
            },
        },
    },
]


@pytest.fixture(scope="module", params=["plain", "special"])
def tokenizer(request, chatml) -> Tokenizer:
    """Marks of the formats as ordinary text, and as special tokens."""
    backend = type(chatml.backend).from_str(chatml.backend.to_str())
    if request.param == "special":
        backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return Tokenizer(backend, chatml.config)


ENDS = {"qwen_xml": "\n</parameter>", "glm": "</arg_value>", "gemma": '<|"|>', "function_gemma": "<escape>"}


def write(name: str, tokenizer: Tokenizer, grammar: Grammar, seed: int) -> str:
    """A random answer that the grammar allows, leaning to its shortest end."""
    end = tokenizer.encode(ENDS.get(name, "}"), add_special_tokens=False)
    random = np.random.default_rng(seed)
    special = [tokenizer.added_tokens[mark].id for mark in MARKS if mark in tokenizer.added_tokens]
    detokenizer, text = Detokenizer(tokenizer, keep=special), ""
    for step in range(600):
        mask = grammar.mask()
        if mask[tokenizer.eos_token_id] and (random.random() < 0.7 or step > 300):
            return text + detokenizer.finish()
        mask[tokenizer.eos_token_id] = False
        if random.random() < 0.3 and grammar.copy().accept_many(end) == len(end):  # free text hardly ends by chance
            grammar.accept_many(end)
            text += "".join(map(detokenizer.add, end))
            continue
        allowed = np.flatnonzero(mask)
        closing = [id_ for id_ in allowed if tokenizer.token_bytes.of(int(id_))[:1] in b'<"}])\n' or id_ in special]
        token = int(random.choice(closing if closing and random.random() < 0.7 else allowed))
        grammar.accept(token)
        text += detokenizer.add(token)
        if grammar.is_finished:
            return text + detokenizer.finish()
    raise AssertionError(f"no end: {text[:300]!r}")


def check(name: str, arguments: dict) -> None:
    assert name in ("get_weather", "now", "find")
    if name == "get_weather":
        assert "city" in arguments and isinstance(arguments["city"], str)
        assert set(arguments) <= {"city", "days", "unit", "sure"}
        assert isinstance(arguments.get("days", 0), int) and 0 <= arguments.get("days", 0) <= 20
        assert isinstance(arguments.get("sure", True), bool)


@pytest.mark.parametrize(("name", "template"), [*((name, "") for name in sorted(FORMATS)), ("mistral", "[ARGS]")])
def test_every_answer_is_calls_that_the_parser_reads(name, template, tokenizer):
    spec = tool_grammar(FORMATS[name], TOOLS, tokenizer, chat_template=template)
    grammar = Grammar.compile(tokenizer, spec)
    seen = set()
    for seed in range(25):
        grammar.reset()
        text = write(name, tokenizer, grammar, seed)
        split = parse_tool_calls(text, FORMATS[name], TOOLS)
        assert split.calls and split.content == "", text
        for call in split.calls:
            check(call.name, json.loads(call.arguments))
            seen.add(call.name)
    assert len(seen) > 1


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_named_tool_is_called_once(name, tokenizer):
    spec = tool_grammar(FORMATS[name], TOOLS, tokenizer, name="now", parallel=False)
    text = write(name, tokenizer, Grammar.compile(tokenizer, spec), 0)
    split = parse_tool_calls(text, FORMATS[name], TOOLS)
    assert [(call.name, call.arguments) for call in split.calls] == [("now", "{}")]


def test_choices_that_cannot_be_made_are_named(tokenizer):
    format = FORMATS["json_tags"]
    with pytest.raises(ToolCallError, match="expected one of the tools"):
        tool_grammar(format, TOOLS, tokenizer, name="missing")
    with pytest.raises(ToolCallError, match="none given"):
        tool_grammar(format, [], tokenizer)
    with pytest.raises(ToolCallError, match="expected a name"):
        tool_grammar(format, [{"name": 'a"\nstart: /.*/'}], tokenizer)
    with pytest.raises(ToolCallError, match="parameter names"):
        tool_grammar(FORMATS["gemma"], [{"name": "a", "parameters": {"properties": {"x}": {}}}}], tokenizer)
