"""OpenAI's `detail` of a picture: what it means here, by content part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ApiError

_PARTS = ("image_url", "input_image", "image")
LOW_PIXELS = 512 * 512


def with_detail(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Messages whose pictures carry `max_pixels` in place of `detail`.

    auto and high leave the size to the checkpoint's processor; low is at most 512 x 512 pixels, as OpenAI documents it.
    Raises ApiError for other values.
    """
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: Any) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part(part, f"messages[{index}].content[{i}]") for i, part in enumerate(content)]}


def _part(part: Any, where: str) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in _PARTS:
        return part
    plain = {key: value for key, value in part.items() if key != "detail"}
    given = [part["detail"]] if part.get("detail") is not None else []
    for key, source in part.items():
        if isinstance(source, Mapping) and "detail" in source:
            plain[key] = {name: value for name, value in source.items() if name != "detail"}
            given += [source["detail"]] if source["detail"] is not None else []
    for detail in given:
        if detail not in ("auto", "high", "low"):
            raise ApiError(400, f"{where}.detail: expected auto, high or low, got {detail!r}", param=f"{where}.detail")
    return {"max_pixels": LOW_PIXELS, **plain} if "low" in given else plain
