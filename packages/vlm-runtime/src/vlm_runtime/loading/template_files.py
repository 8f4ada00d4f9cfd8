"""Read a tokenizer's JSON files and a checkpoint's chat templates, wherever it keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_runtime.errors import TokenizerError


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None if there is no such file.

    Raises:
        TokenizerError: The file is not a JSON object.
    """
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: expected JSON, got: {error}; is the file complete?") from error
    if not isinstance(data, dict):
        raise TokenizerError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Template sources by name, from the files a checkpoint may keep them in; a later file wins.

    Raises:
        TokenizerError: A template file is damaged.
    """
    templates = _named(config.get("chat_template"))
    if (content := read_json(folder / "chat_template.json")) is not None:
        templates |= _named(content.get("chat_template"))
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    path = folder / "chat_template.jinja"
    if path.is_file():
        templates["default"] = path.read_text(encoding="utf-8")
    return templates


def _named(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, Mapping):
        return {name: source for name, source in value.items() if isinstance(source, str)}
    return {row["name"]: row["template"] for row in value or ()}
