"""Videos as timed pictures told in words: how many frames, how long, and when each was seen (SmolVLM2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from ...core.family import TokenTable
from ...core.inputs import MediaItem, MediaKind
from ...errors import ProcessingError
from ..base import MediaOptions, pick
from ..idefics import SplitPictures
from ..image.fixed import reshaped
from ..image.splits import SplitStrategy

# fmt: off
_SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
          "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# fmt: on


def in_words(number: int) -> str:
    """An English numeral of 0 to 999999, such as `one hundred and twenty-one`."""
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10 - 2] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    if number < 1000:
        rest = f" and {in_words(number % 100)}" if number % 100 else ""
        return f"{_SMALL[number // 100]} hundred{rest}"
    left = number % 1000
    joint = "" if not left else f" and {in_words(left)}" if left < 100 else f", {in_words(left)}"
    return f"{in_words(number // 1000)} thousand{joint}"


class ToldFrames(SplitPictures):
    """Pictures as Idefics3, and videos: each frame one tile. Both stand for image tokens. Videos hold `pixels`
    [frames, 3, tile, tile], their grids count frames."""

    def __init__(
        self,
        image_token: int,
        strategy: SplitStrategy,
        span: int,
        video: Mapping[str, Any],
        image: Mapping[str, Any],
        table: TokenTable | None,
    ) -> None:
        """video, image: the two preprocessor files; published ones keep `video_sampling` in either."""
        super().__init__(image_token, strategy, span, table)
        self.token_ids = {"image": image_token, "video": image_token}
        sampling = pick(video, "video_sampling", pick(image, "video_sampling", {}))
        size = pick(sampling, "video_size", pick(video, "size", {"longest_edge": strategy.tile}))
        if not size.get("longest_edge"):
            raise ProcessingError(f"preprocessor: video_size {size!r} is not supported (longest_edge expected)")
        self.frames = replace(strategy, longest=int(size["longest_edge"]), split=False)
        self.fps, self.max_frames = float(pick(sampling, "fps", 1)), int(pick(sampling, "max_frames", 64))

    def placeholder(self, kind: MediaKind) -> str:
        return "<video>" if kind == "video" else super().placeholder(kind)

    def sample(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        """Evenly between the first and last frame; long clips lose a second at both ends."""
        most = self.max_frames if options.max_frames is None else options.max_frames
        fps = self.fps if options.fps is None else options.fps
        if total < 1 or not rate > 0 or most < 1 or not fps > 0:
            raise ProcessingError(f"cannot sample {total} frames at {rate} a second: fps {fps}, max_frames {most}")
        duration = total / rate
        first, last = 0, total - 1
        if duration - 2 > most * fps:
            first, last = int(rate), min(int(total - rate), total - 1)
        if first >= last:
            first, last = 0, total - 1
        count = max(1, min(round(fps * duration), most))
        return np.unique(np.linspace(first, last, count, dtype=np.int64))

    def video(self, frames: np.ndarray, timestamps: Sequence[float], options: MediaOptions) -> MediaItem:
        pixels = np.concatenate([self.frames(reshaped(frame, options)) for frame in frames])
        duration = timestamps[-1] if options.duration is None else options.duration
        facts = {"timestamps": tuple(timestamps), "duration": duration}
        return MediaItem("video", {"pixels": pixels}, len(pixels) * self.per_tile, (len(pixels),), facts)

    def replacement(self, item: MediaItem) -> str:
        if item.kind == "image":
            return super().replacement(item)
        times = [int(time) for time in item.facts["timestamps"]]
        length = timedelta(seconds=int(item.facts["duration"]))
        intro = (
            f"You are provided the following series of {in_words(len(times))} frames from a {length} [H:MM:SS] video.\n"
        )
        frames = [f"\nFrame from {time // 60:02d}:{time % 60:02d}:{self._whole()}" for time in times]
        return "".join([intro, *frames, "\n\n"])
