"""Tool calls in answers: one file per way of writing them, one splitter, and which way a checkpoint uses."""

from __future__ import annotations

from vlm_runtime.text.tools.call import Reading, ToolCall, ToolFormat, Tools, ToolSplit
from vlm_runtime.text.tools.gemma import FUNCTION_GEMMA, GEMMA
from vlm_runtime.text.tools.llama import LLAMA_JSON, PYTHONIC
from vlm_runtime.text.tools.mistral import MISTRAL
from vlm_runtime.text.tools.splitter import ToolCallSplitter
from vlm_runtime.text.tools.tagged import GLM, JSON_TAGS, QWEN_XML

TOOL_FORMATS: dict[str, ToolFormat] = {
    format.name: format for format in (JSON_TAGS, QWEN_XML, GLM, GEMMA, FUNCTION_GEMMA, MISTRAL, LLAMA_JSON, PYTHONIC)
}
TOOL_FORMATS = TOOL_FORMATS  # its name at the package root
# First row whose strings all stand in the chat template. Order matters: several write <tool_call>.
_SIGNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|tool_call>",), "gemma"),
    (("<start_function_call>",), "function_gemma"),
    (("<function=", "<parameter="), "qwen_xml"),
    (("<arg_key>",), "glm"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<tool_call>",), "json_tags"),
    (("<|python_start|>",), "pythonic"),
    (("[func_name1(",), "pythonic"),
    (("<|python_tag|>",), "llama_json"),
    (('{"name": function name, "parameters"',), "llama_json"),
)


def detect_format(chat_template: str) -> ToolFormat | None:
    """The format that a chat template teaches, or None if it shows none."""
    for signs, name in _SIGNS:
        if all(sign in chat_template for sign in signs):
            return TOOL_FORMATS[name]
    return None


def parse_tool_calls(text: str, format: ToolFormat, tools: Tools = ()) -> ToolSplit:
    """Content and calls of a whole answer."""
    splitter = ToolCallSplitter(format, tools)
    return splitter.add(text) + splitter.finish()


__all__ = [
    "TOOL_FORMATS",
    "Reading",
    "ToolCall",
    "ToolCallSplitter",
    "ToolFormat",
    "ToolSplit",
    "Tools",
    "detect_format",
    "parse_tool_calls",
]
