"""Take frames from a video, an animation or a list of pictures, within limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlm_runtime.errors import MediaError, MediaLimitError, OptionError
from vlm_runtime.media.digest import content_digest
from vlm_runtime.media.fetch import Network
from vlm_runtime.media.image import load_image
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.readers import open_reader
from vlm_runtime.media.source import Content, is_local, local_path, open_source, shown

Sample = Callable[[int, float], Sequence[int] | np.ndarray]
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True, eq=False)
class Video:
    """Frames taken from a video.

    Attributes:
        frames: uint8 [frames, height, width, 3].
        timestamps: Seconds of each frame from the start: index / fps, or the container's times where its rate varies.
        indices: Place of each frame in the source.
        fps: Frames per second of the source.
        total: Frames of the source.
        note: What was left out or assumed, for the user; empty if nothing.
    """

    frames: np.ndarray
    timestamps: tuple[float, ...]
    indices: tuple[int, ...]
    fps: float
    total: int
    note: str = ""

    @property
    def duration(self) -> float:
        """Seconds of the whole source."""
        return self.total / self.fps

    @cached_property
    def digest(self) -> str:
        """Key of the frames and their times."""
        return content_digest("video", self.frames, self.timestamps, self.duration)


@dataclass(frozen=True)
class EvenSampling:
    """Frames at even distances.

    Args:
        fps: Frames for each second of the video; None takes every frame.
        max_frames: Most frames taken; they are then spread over the whole video.
    """

    fps: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < 1000:
            raise OptionError(f"fps: expected a number above 0, got {self.fps!r}")
        if self.max_frames is not None and self.max_frames < 1:
            raise OptionError(f"max_frames: expected at least 1, got {self.max_frames!r}")

    def __call__(self, total: int, rate: float) -> np.ndarray:
        """Ascending indices into `total` frames at `rate` frames per second."""
        count = total if self.fps is None else max(1, round(total / rate * self.fps))
        count = min(count, total, self.max_frames or total)
        return np.round(np.linspace(0, total - 1, count)).astype(np.int64)


def load_video(
    source: Any,
    policy: MediaPolicy | None = None,
    *,
    sample: Sample | None = None,
    frame_rate: float | None = None,
    reader: str | None = None,
    network: Network | None = None,
) -> Video:
    """Take frames from a video.

    Args:
        source: Path, http(s) URL, data URI, bytes or open binary file of a video or an animated GIF, WebP or PNG; a
            folder of pictures (by name); a list of images, each as `load_image` takes it; an array [T, H, W, 3]; `Video`.
        policy: What may be opened; None trusts the local user.
        sample: Gives the indices to take from (total frames, frames per second), such as a family's rule or
            `EvenSampling`; None takes every frame. Folders, lists and arrays hold chosen frames: all are taken.
        frame_rate: Frames per second of a folder, list or array; None means 1.
        reader: `av`, `decord` or `pillow`; None chooses.
        network: Replaces the operating system's, in tests.

    Raises:
        ExtraMissing: No video reader is installed.
        MediaError: It is not a video, or damaged.
        MediaLimitError: It, or what is taken from it, exceeds the policy.
        FetchError: The source is refused or cannot be reached.
    """
    policy = policy or MediaPolicy()
    if isinstance(source, Video):
        return source
    if frame_rate is not None and not 0 < frame_rate < 100_000:
        raise OptionError(f"frame_rate: expected a number above 0, got {frame_rate!r}")
    if isinstance(source, np.ndarray | list | tuple):
        return _from_pictures(source, policy, frame_rate, network)
    if is_local(source) and (folder := local_path(source, policy)).is_dir():
        return _from_pictures(_pictures_in(folder), policy, frame_rate, network)
    if frame_rate is not None:
        raise OptionError("frame_rate: expected a folder or list of pictures, got a video, which has its own rate")
    return _from_file(open_source(source, policy, network), policy, sample, reader)


def _from_file(content: Content, policy: MediaPolicy, sample: Sample | None, reader: str | None) -> Video:
    video, name = open_reader(content, policy, reader=reader), content.name
    try:
        indices = _checked(range(video.total) if sample is None else sample(video.total, video.rate), video.total)
        height, width = video.size
        _check_taken(len(indices), height, width, name, policy)
        frames = np.empty((len(indices), height, width, 3), np.uint8)
        for place, frame in enumerate(video.read(indices)):
            if frame.shape != frames.shape[1:]:
                raise MediaError(f"{name}: expected frames of one size, got {width}x{height} and others")
            frames[place] = frame
        timestamps = np.array(indices, np.float64) / video.rate
        note = ""
        if (
            video.times is not None
            and np.abs(video.times - np.arange(video.total) / video.rate).max() > 0.5 / video.rate
        ):
            timestamps, note = video.times[indices], "frame rate varies: times are the file's"
        return Video(frames, tuple(timestamps.tolist()), tuple(indices), video.rate, video.total, note)
    finally:
        video.close()


def _from_pictures(
    pictures: Sequence[Any] | np.ndarray, policy: MediaPolicy, rate: float | None, network: Network | None
) -> Video:
    if len(pictures) < 1 or (isinstance(pictures, np.ndarray) and pictures.ndim != 4):
        raise MediaError("video: expected frames, got an empty list or an array that is not [T, H, W, 3]")
    first = load_image(pictures[0], policy, network=network)
    _check_taken(len(pictures), *first.size, "frames", policy)
    frames = np.empty((len(pictures), *first.rgb.shape), np.uint8)
    for place, picture in enumerate(pictures):
        image = load_image(picture, policy, network=network)
        if image.size != first.size:
            raise MediaError(
                f"frame {place}: expected {first.size[1]}x{first.size[0]} as frame 0, got {image.size[1]}x{image.size[0]}"
            )
        frames[place] = image.rgb
    note = "" if rate else "frames without times: taken as one a second"
    rate = rate or 1.0
    times = tuple(place / rate for place in range(len(frames)))
    return Video(frames, times, tuple(range(len(frames))), rate, len(frames), note)


def _pictures_in(folder: Path) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if Path(entry.name).suffix.lower() in _PICTURES)
    except OSError as error:
        raise MediaError(f"{shown(folder)}: cannot be read: {error.strerror}") from error
    if not names:
        raise MediaError(f"{shown(folder)}: expected pictures in this folder, found none")
    return [folder / name for name in names]


def _checked(indices: Iterable[int], total: int) -> list[int]:
    result = [int(index) for index in indices]
    if not result or result != sorted(result) or result[0] < 0 or result[-1] >= total:
        raise OptionError(f"sample: expected ascending frame numbers from 0 to {total - 1}, got {result[:8]}")
    return result


def _check_taken(count: int, height: int, width: int, name: str, policy: MediaPolicy) -> None:
    if count > policy.max_sampled_frames:
        raise MediaLimitError(
            f"{name}: expected at most {policy.max_sampled_frames} frames to be taken, got {count}; lower fps or max_frames"
        )
    if count * height * width > policy.max_sampled_pixels:
        raise MediaLimitError(
            f"{name}: expected at most {policy.max_sampled_pixels} pixels in the frames taken, got {count} of "
            f"{width}x{height}; lower fps or max_frames"
        )
