"""Videos for families that have no form of their own for them: frames in order, as pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .loading.messages import medium_of
from .options import MEDIA_OPTIONS, GenerateOptions

if TYPE_CHECKING:
    from .processor import Processor

MOST_FRAMES = 8

log = logging.getLogger("vlm_runtime.media")


def reads_frames(processor: Processor) -> bool:
    """Whether the family takes pictures and no video."""
    return "image" in processor.kinds and "video" not in processor.kinds


def as_frames(processor: Processor, video: Any, options: GenerateOptions) -> list[Any]:
    """Frames of a video as images: one a second, 8 at most, unless options say otherwise."""
    from .media.video import EvenSampling, load_video  # PyAV, paid only when there is a video

    sample = EvenSampling(fps=options.fps or 1.0, max_frames=options.max_frames or MOST_FRAMES)
    frames = list(load_video(video, options.media_policy, sample=sample).frames)
    log.info("%s reads no video: %d of its frames are shown in order, as pictures", processor.family.name, len(frames))
    return frames


def with_frames(
    processor: Processor, messages: Sequence[Mapping[str, Any]], options: GenerateOptions
) -> list[Mapping[str, Any]]:
    """Messages whose videos are replaced by pictures of their frames, where the family reads no video; else as they are.

    Raises MediaError, PromptError for a video that cannot be read or has no source."""
    if not reads_frames(processor):
        return list(messages)
    return [_shown(processor, message, index, options) for index, message in enumerate(messages)]


def _shown(processor: Processor, message: Mapping[str, Any], index: int, options: GenerateOptions) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return message
    parts: list[Any] = []
    for place, part in enumerate(content):
        medium = medium_of(part, f"messages[{index}].content[{place}]")
        if medium is None or medium.kind != "video" or medium.source is None:
            parts.append(part)
            continue
        own = {name: value for name, value in medium.options.items() if name in MEDIA_OPTIONS}
        frames = as_frames(processor, medium.source, replace(options, **own))
        rest = {name: value for name, value in medium.options.items() if name not in ("fps", "max_frames")}
        parts += [{**rest, "type": "image", "image": frame} for frame in frames]
    return {**message, "content": parts}
