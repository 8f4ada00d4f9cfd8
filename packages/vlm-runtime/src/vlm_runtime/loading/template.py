"""Render chat messages with a checkpoint's chat template, so that what users typed stays text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from vlm_runtime.errors import PromptError, TemplateError
from vlm_runtime.loading.jinja import BORDER, compile_template
from vlm_runtime.loading.messages import escape_all, normalise
from vlm_runtime.loading.rendered import MediaKind, Rendered

if TYPE_CHECKING:
    from vlm_runtime.loading.tokenizer import Tokenizer

Placeholder = Callable[[MediaKind, int], str]
THINKING = ("<think>", "</think>")
_LOOKS_FOR_END = re.compile(r"""['"]</think>['"]\s+in\b|split\(\s*['"]</think>""")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_PROBED = ("system", "user", "assistant")
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", BORDER})
_BORDERS = range(0xF8FF, 0xDFFF, -1)  # private use: no meaning to any model


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    chat_template: str | None = None,
    placeholder: Placeholder | None = None,
    placeholders: Collection[str] = (),
    **variables: Any,
) -> Rendered:
    """The prompt for `messages`, with the media they name in order.

    Args:
        tokenizer: Of the checkpoint; brings the template and the strings that must stay text.
        messages: `{"role": ..., "content": string or parts}`; parts by OpenAI's or Hugging Face's names.
        add_generation_prompt: Open the assistant's turn.
        tools: OpenAI function tools.
        enable_thinking: Handed to templates that know it; None leaves the template's default.
        chat_template: Template source to use instead of the checkpoint's.
        placeholder: Text that stands for a medium (kind, ordinal of its kind from 1) where the template takes only
            strings as content; without it such a template refuses media.
        placeholders: Strings that the family expands and that the tokenizer does not know as special tokens.
        variables: Further template variables.

    Raises:
        TemplateError: There is no template, or it refuses the messages, the tools or a variable.
        PromptError: A message is malformed.
    """
    source = chat_template if chat_template is not None else select_template(tokenizer, tools is not None)
    run, known = compile_template(source)
    if refused := sorted((_RESERVED | set(tokenizer.special_tokens)) & set(variables)):
        raise TemplateError(f"template variables: {', '.join(refused)} cannot be set; leave them out")
    if unknown := sorted(set(variables) - known):
        raise TemplateError(f"this checkpoint's chat template does not know {', '.join(unknown)}; leave them out")
    if tools is not None and "tools" not in known:
        raise TemplateError("this checkpoint's chat template takes no tools; use a checkpoint trained for tool calls")

    for name, given in (("messages", messages), ("tools", tools)):
        if given is not None and not isinstance(given, list | tuple):
            raise PromptError(f"{name}: expected a list of objects, got {type(given).__name__}")
    if messages is None:
        raise PromptError("messages: expected a list of objects, got None")
    added = frozenset(placeholders)
    border = _border((messages, tools, variables), source)
    escape = partial(tokenizer.control.variant(added).break_up, border=border)
    lenient = partial(tokenizer.control.variant(added, frozenset(THINKING)).break_up, border=border)

    history = _split_reasoning(messages, source)
    normal, media = normalise(history, lambda role: lenient if role == "assistant" and _keeps(source) else escape)
    specials = tuple(sorted(tokenizer.special_tokens.items()))
    ordinals: dict[MediaKind, int] = {}
    for message in normal:
        role = message["role"] if message["role"] in _PROBED else "user" if _has_media(message) else "tool"
        _suit(message, _form(source, role, specials), placeholder, ordinals)
    if enable_thinking is not None:
        variables |= {name: enable_thinking for name in ("enable_thinking", "thinking") if name in known}
    text = run(
        **{BORDER: border},
        **tokenizer.special_tokens,
        **{name: escape_all(value, escape, name) for name, value in variables.items()},
        messages=normal,
        tools=None if tools is None else [_tool(tool, escape) for tool in tools],
        add_generation_prompt=add_generation_prompt,
    )
    return Rendered([piece for piece in text.split(border) if piece] or [""], media)


def select_template(tokenizer: Tokenizer, with_tools: bool = False) -> str:
    """Source of the checkpoint's template: `tool_use` for tools where there is one, else `default`.

    Raises:
        TemplateError: The checkpoint brings no chat template.
    """
    templates = tokenizer.chat_templates
    for name in ("tool_use", "default") if with_tools else ("default",):
        if name in templates:
            return templates[name]
    if len(templates) == 1:
        return next(iter(templates.values()))
    raise TemplateError(
        f"expected a chat template in the checkpoint, found {', '.join(sorted(templates)) or 'none'}; "
        "give a raw prompt or a chat_template"
    )


def supports(tokenizer: Tokenizer, variable: str) -> bool:
    """Whether the checkpoint's chat template reads a variable, such as `tools` or `enable_thinking`."""
    return any(variable in compile_template(source)[1] for source in tokenizer.chat_templates.values())


def _border(values: Any, source: str) -> str:
    """A private-use character that occurs nowhere in the input."""
    used = set(source)
    for text in _strings(values):
        if not text.isascii():
            used.update(text)
    for code in _BORDERS:
        if chr(code) not in used:
            return chr(code)
    raise PromptError("messages: expected ordinary text, got every private-use character of Unicode")


def _strings(values: Any) -> Iterable[str]:
    stack = [values]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            stack += (*value.keys(), *value.values())
        elif isinstance(value, list | tuple):
            stack += value


def _keeps(source: str) -> bool:
    """Whether the template takes reasoning out of an assistant's content by itself."""
    return bool(_LOOKS_FOR_END.search(source)) and "reasoning_content" not in source


def _split_reasoning(messages: Sequence[Mapping[str, Any]], source: str) -> list[Mapping[str, Any]]:
    """Move reasoning at the head of an assistant's content to the field the template reads, under all its names."""
    result: list[Mapping[str, Any]] = []
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") == "assistant":
            message = dict(message)
            content = message.get("content")
            given = next((message[name] for name in _REASONING if message.get(name) is not None), None)
            if given is None and "reasoning_content" in source and isinstance(content, str) and THINKING[1] in content:
                head, _, tail = content.rpartition(THINKING[1])
                given = head.split(THINKING[0])[-1].strip("\n")
                message["content"] = tail.lstrip("\n")
            if given is not None:
                message.update({name: given for name in _REASONING})
        result.append(message)
    return result


@lru_cache(maxsize=128)
def _form(source: str, role: str, specials: tuple[tuple[str, str], ...]) -> str:
    """Which form of content the template takes for a role: `string`, `parts` or `both`. Found by trying."""
    if role not in _PROBED:
        return "string"
    run, _ = compile_template(source)
    forms: dict[str, Any] = {"string": "probed content", "parts": [{"type": "text", "text": "probed content"}]}
    user = {"role": "user", "content": forms["string"]}
    if role != "user" and _form(source, "user", specials) == "parts":
        user["content"] = forms["parts"]
    accepted = []
    for form, content in forms.items():
        message = {"role": role, "content": content}
        chat = {"system": [message, user], "user": [message], "assistant": [user, message]}[role]
        try:
            text = run(**dict(specials), messages=chat, tools=None, add_generation_prompt=False)
        except TemplateError:
            continue
        if text.count("probed content") >= len(chat) and "[{'type'" not in text:
            accepted.append(form)
    return accepted[0] if len(accepted) == 1 else "both"


def _has_media(message: Mapping[str, Any]) -> bool:
    content = message["content"]
    return not isinstance(content, str) and any(part["type"] != "text" for part in content)


def _suit(message: dict[str, Any], form: str, placeholder: Placeholder | None, ordinals: dict[MediaKind, int]) -> None:
    """Bring a message's content into a form that the template takes, and count its media."""
    content = message["content"]
    if isinstance(content, str):
        if form == "parts":
            message["content"] = [{"type": "text", "text": content}]
        return
    text = ""
    previous = ""
    for part in content:
        kind = part["type"]
        if kind == "text":
            text += ("\n" if previous == "text" else "") + part["text"]
        else:
            ordinals[kind] = ordinals.get(kind, 0) + 1
            if form == "string" and placeholder is None:
                raise TemplateError(
                    f"this checkpoint's chat template takes text only for {message['role']} messages, got {kind} parts; "
                    "write the placeholders into a raw prompt"
                )
            if form == "string" and placeholder is not None:
                text += placeholder(kind, ordinals[kind])
        previous = kind
    if form == "string":
        message["content"] = text


def _tool(tool: Any, escape: Callable[[str], str]) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise PromptError(f"tools: expected JSON objects, got {type(tool).__name__}")
    wrapped = (
        tool if "function" in tool else {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
    )
    function = wrapped["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f"tools: expected objects with function.name, got {tool!r:.80}")
    return escape_all(wrapped, escape, "tools")
