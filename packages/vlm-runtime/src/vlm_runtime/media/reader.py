"""What a video reader is, and the checks that every reader makes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from vlm_runtime.errors import MediaError, MediaLimitError
from vlm_runtime.media.policy import MediaPolicy


class Reader(Protocol):
    """An open video.

    Attributes:
        size: Height and width of a frame, upright.
        total: Number of frames.
        rate: Frames per second, on average.
        times: Seconds of every frame from the first on, or None where the container has none.
    """

    size: tuple[int, int]
    total: int
    rate: float
    times: np.ndarray | None

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames uint8 [H, W, 3] at ascending indices. Raises MediaError if one cannot be decoded."""

    def close(self) -> None:
        """Free the decoder."""


def check_frame(width: int, height: int, name: str, policy: MediaPolicy) -> None:
    """Raises MediaError for frames without pixels, MediaLimitError for too many."""
    if width * height < 1:
        raise MediaError(f"{name}: expected a video, got frames of {width}x{height}")
    if width * height > policy.max_pixels:
        raise MediaLimitError(f"{name}: expected at most {policy.max_pixels} pixels a frame, got {width}x{height}")


def check_video(total: int, rate: float, name: str, policy: MediaPolicy) -> None:
    """Raises MediaError for a video without frames, MediaLimitError for too many or too long."""
    if total < 1 or not rate > 0:
        raise MediaError(f"{name}: expected a video, got {total} frames at {rate:g} a second")
    if total > policy.max_video_frames:
        raise MediaLimitError(f"{name}: expected at most {policy.max_video_frames} frames, got {total}")
    if total / rate > policy.max_video_seconds:
        raise MediaLimitError(
            f"{name}: expected at most {policy.max_video_seconds:g} s of video, got {total / rate:.0f} s"
        )


def check_time(deadline: float, name: str, policy: MediaPolicy) -> None:
    """Raises MediaLimitError once the deadline (of `time.monotonic`) is over."""
    if time.monotonic() > deadline:
        raise MediaLimitError(f"{name}: expected decoding within {policy.max_decode_seconds:g} s, took longer")


def damaged(name: str, error: BaseException) -> MediaError:
    """The error for a video that cannot be decoded."""
    return MediaError(f"{name}: expected a whole video, got a damaged one: {line(error)}")


def line(error: BaseException) -> str:
    """What a decoder says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
