"""Chat messages from any client's spelling to the one form that chat templates test for, and the media they name.

Knows OpenAI's, Anthropic-like and Hugging Face's part names. Does not know templates or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlm_runtime.errors import PromptError
from vlm_runtime.loading.rendered import MediaKind, MediaRef

_CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "model")
ROLES = frozenset((*_CHAT_ROLES, "observation", "available_tools", "documents", "critic"))
_TEXT = ("text", "input_text", "output_text")
_MEDIA: dict[str, MediaKind] = {
    "image": "image", "image_url": "image", "input_image": "image",
    "audio": "audio", "audio_url": "audio", "input_audio": "audio",
    "video": "video", "video_url": "video", "input_video": "video",
}  # fmt: skip
_SOURCE_KEYS = ("url", "path", "data", "base64")
MAX_DEPTH = 64

Part = Mapping[str, Any]
Escape = Callable[[str], str]


def normalise(
    messages: Sequence[Mapping[str, Any]], escape_by_role: Callable[[str], Escape]
) -> tuple[list[dict[str, Any]], list[MediaRef]]:
    """Messages whose content is a string or a list of `{"type": "text" | "image" | "audio" | "video"}`, and the media.

    Args:
        messages: As a client sends them. `content` may be a string, a list of parts (or strings), or None.
        escape_by_role: Gives, for a role, what to apply to every string of its messages except roles and part types.

    Raises:
        PromptError: A role, a part or its source is not understood; the message says where.
    """
    media: list[MediaRef] = []
    result: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise PromptError(f"{where}: expected an object with role and content, got {type(message).__name__}")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise PromptError(f"{where}.role: expected one of {', '.join(sorted(ROLES))}; got {role!r}")
        escape = escape_by_role(role)
        rest = {key: value for key, value in message.items() if key not in ("role", "content", "tool_calls")}
        normal = {"role": role, "content": _content(message.get("content"), where, escape, media)}
        normal.update(escape_all(rest, escape, where))
        if calls := message.get("tool_calls"):
            if not isinstance(calls, list | tuple):
                raise PromptError(f"{where}.tool_calls: expected a list, got {type(calls).__name__}")
            normal["tool_calls"] = [_tool_call(call, where, escape) for call in calls]
        result.append(normal)
    return result, media


def medium_of(part: Any, where: str) -> MediaRef | None:
    """The medium that a part of a message names; None for text. Raises PromptError where its source is not understood."""
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type") or next((key for key in (*_MEDIA, "text") if key in part), None)
    return _media(part, kind, where) if isinstance(kind, str) and kind in _MEDIA else None


def escape_all(value: Any, escape: Escape, where: str, depth: int = 0) -> Any:
    """`value` with every string in it, keys too, passed through `escape`.

    Raises:
        PromptError: It is nested deeper than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise PromptError(f"{where}: expected at most {MAX_DEPTH} levels of nesting, got more")
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {
            escape_all(key, escape, where, depth + 1): escape_all(item, escape, where, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [escape_all(item, escape, where, depth + 1) for item in value]
    return value


def _content(content: Any, where: str, escape: Escape, media: list[MediaRef]) -> Any:
    if content is None:
        return ""
    if isinstance(content, str):
        return escape(content)
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise PromptError(f"{where}.content: expected a string or a list of parts, got {type(content).__name__}")
    return [_part(part, f"{where}.content[{index}]", escape, media) for index, part in enumerate(content)]


def _part(part: Any, where: str, escape: Escape, media: list[MediaRef]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": escape(part)}
    if not isinstance(part, Mapping):
        raise PromptError(f"{where}: expected a content part, got {type(part).__name__}")
    kind = part.get("type")
    if kind is None:  # Hugging Face examples write {"image": "a.jpg"} and {"text": "..."}
        kind = next((key for key in (*_MEDIA, "text") if key in part), None)
    if not isinstance(kind, str):
        raise PromptError(f"{where}.type: expected a string, got {type(kind).__name__}")
    if kind in _TEXT:
        text = part.get("text")
        if not isinstance(text, str):
            raise PromptError(f"{where}.text: expected a string, got {type(text).__name__}")
        return {"type": "text", "text": escape(text)}
    if kind in _MEDIA:
        media.append(_media(part, kind, where))
        return {"type": _MEDIA[kind]}
    raise PromptError(f"{where}.type: expected one of {', '.join((*_TEXT, *_MEDIA))}; got {kind!r}")


def _media(part: Part, kind: str, where: str) -> MediaRef:
    medium = _MEDIA[kind]
    aliases = (kind, medium, f"{medium}_url", f"input_{medium}", *_SOURCE_KEYS)
    options = {key: value for key, value in part.items() if key != "type" and key not in aliases}
    given = [part[key] for key in dict.fromkeys(aliases) if part.get(key) is not None]
    if len(given) > 1:
        raise PromptError(f"{where}: expected one source, got {len(given)}; give one of {', '.join(aliases)}")
    return MediaRef(medium, _source(given[0], medium, where) if given else None, options)


def _source(source: Any, medium: MediaKind, where: str) -> Any:
    """The inner source of `{"url": ...}` and `{"data": ..., "format": ...}`."""
    if not isinstance(source, Mapping):
        return source
    given = [key for key in _SOURCE_KEYS if source.get(key) is not None]
    if len(given) != 1:
        raise PromptError(f"{where}: expected one of {', '.join(_SOURCE_KEYS)}, got {', '.join(given) or 'none'}")
    inner = source[given[0]]
    if given[0] in ("data", "base64") and isinstance(inner, str) and not inner.startswith("data:"):
        return f"data:{medium}/{source.get('format') or 'octet-stream'};base64,{inner}"
    return inner


def _tool_call(call: Any, where: str, escape: Escape) -> dict[str, Any]:
    """OpenAI's call, with arguments as an object: templates write them with `tojson`."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f"{where}.tool_calls: expected objects with function.name, got {call!r:.80}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{where}.tool_calls: arguments of {function['name']!r} are not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise PromptError(f"{where}.tool_calls: arguments: expected an object, got {type(arguments).__name__}")
    rest = {key: value for key, value in call.items() if key not in ("function", "name", "arguments")}
    normal = {"name": function["name"], "arguments": arguments}
    return {"type": "function", **escape_all(rest, escape, where), "function": escape_all(normal, escape, where)}
