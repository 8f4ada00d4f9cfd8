"""Which frames of a video a family looks at. Knows counts and rates; not files or pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...errors import ProcessingError
from ..base import MediaOptions, pick

# (frames of a video, its rate, options) -> int64 indices of the frames to read
Sampling = Callable[[int, float, MediaOptions], np.ndarray]
Spread = Literal["ends", "starts", "middles"]


@dataclass(frozen=True)
class VideoSampling:
    """fps: frames a second. Counts are at least min_frames, at most max_frames, and never more than the video has.

    spread: "ends": first and last frame and evenly between; "starts": the first frame of equal stretches, in whole groups of
    `group` frames; "middles": the middle frame of equal stretches. num_frames: a fixed count that replaces fps.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    group: int = 2
    spread: Spread = "ends"
    num_frames: int | None = None

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: VideoSampling) -> VideoSampling:
        """From video_preprocessor_config.json."""
        count = files.get("num_frames")
        return cls(
            float(pick(files, "fps", default.fps)),
            int(pick(files, "min_frames", default.min_frames)),
            int(pick(files, "max_frames", default.max_frames)),
            int(pick(files, "temporal_patch_size", default.group)),
            default.spread,
            default.num_frames if count is None else int(count),
        )

    def __call__(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        """int64 indices of the frames to read of a video of `total` frames at `rate` a second. Raises ProcessingError."""
        check_video(total, rate, options)
        most = min(self.max_frames if options.max_frames is None else options.max_frames, total)
        if self.spread == "starts":
            return self._starts(total, rate, most, options)
        count = self._wanted(total, rate, options)
        count = min(max(int(count), self.min_frames), most)
        if self.spread == "middles":
            return _stretches(total, count, 0.5)
        return np.linspace(0, total - 1, count).round().astype(np.int64)

    def _wanted(self, total: int, rate: float, options: MediaOptions) -> float:
        if options.fps is None and self.num_frames is not None:
            return self.num_frames
        return total / rate * (self.fps if options.fps is None else options.fps)

    def _starts(self, total: int, rate: float, most: int, options: MediaOptions) -> np.ndarray:
        if options.fps is None and self.num_frames is not None:
            count = float(min(round(self.num_frames / self.group) * self.group, most))
        else:
            whole = most // self.group * self.group
            count = min(max(self._wanted(total, rate, options), self.min_frames), whole)
            count = math.floor(count / self.group) * self.group
        if count < 1:
            return np.arange(most)  # shorter than one group: all there is, the last frame fills it up
        return _stretches(total, int(count), 0)


def _stretches(total: int, count: int, inside: float) -> np.ndarray:
    """The frame at the share `inside` of each of `count` equal stretches."""
    at = (np.arange(count) + inside) * (total / count)
    # the reference rounds to float32 before it cuts off
    return np.minimum(at.astype(np.float32).astype(np.int64), total - 1)


@dataclass(frozen=True)
class TickSampling:
    """The frame at or behind each tick of 1 / fps seconds, each frame once, in pairs (GLM-4V). Videos longer than max_seconds
    are spread over as many frames as that long a video has."""

    fps: float = 2.0
    max_seconds: float = 300.0

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: TickSampling) -> TickSampling:
        """From video_preprocessor_config.json."""
        return cls(float(pick(files, "fps", default.fps)), float(pick(files, "max_duration", default.max_seconds)))

    def __call__(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        """As VideoSampling; an odd number of frames repeats the last."""
        check_video(total, rate, options)
        fps, duration = options.fps or self.fps, total / rate
        if duration <= self.max_seconds:
            ticks = np.arange(max(math.floor(duration * fps), 1)) * rate / fps
        else:
            ticks = np.linspace(0, duration, int(self.max_seconds * fps)) * rate
        indices = np.unique(np.minimum(np.ceil(ticks).astype(np.int64), total - 1))
        if int(self.max_seconds * fps) >= total and duration > self.max_seconds:
            indices = np.arange(total)
        if options.max_frames is not None and len(indices) > options.max_frames:
            indices = indices[np.linspace(0, len(indices) - 1, options.max_frames).round().astype(int)]
        return np.append(indices, indices[-1:]) if len(indices) % 2 else indices


def check_video(total: int, rate: float, options: MediaOptions) -> None:
    """Raise ProcessingError for a video without frames or rate, or limits that leave nothing."""
    if total < 1 or not rate > 0:
        raise ProcessingError(f"a video needs frames and a rate above 0; found {total} frames at {rate} a second")
    if options.fps is not None and not options.fps > 0:
        raise ProcessingError(f"fps must be above 0, got {options.fps}")
    if options.max_frames is not None and options.max_frames < 1:
        raise ProcessingError(f"max_frames must be at least 1, got {options.max_frames}")
