"""Read animations with Pillow."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image as Pillow

from vlm_runtime.errors import MediaError, MediaLimitError
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.reader import check_frame, check_time, check_video, damaged, line
from vlm_runtime.media.source import Content

_PILLOW_BOMB = (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning)
_PILLOW_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OverflowError,
    UserWarning,
    struct.error,
)


# an animation's frames are drawn one over the other, wanted or not: a few kilobytes may hold thousands of large ones
DRAWN_TO_TAKEN = 4


class PillowReader:
    """Pillow, for animated GIF, WebP and PNG."""

    def __init__(self, content: Content, policy: MediaPolicy) -> None:
        name = content.name
        self._name, self._policy = name, policy
        self._file = content.open()
        try:
            durations = self._inspect()
            check_video(self.total, self.rate, name, policy)
        except BaseException as error:
            self._file.close()
            if isinstance(error, MediaError) or not isinstance(error, (*_PILLOW_DAMAGE, *_PILLOW_BOMB)):
                raise
            if isinstance(error, _PILLOW_BOMB):
                raise MediaLimitError(f"{name}: expected at most {policy.max_pixels} pixels: {error}") from error
            raise MediaError(f"{name}: expected an animation, got a damaged or other file: {line(error)}") from error
        self.times = np.cumsum([0.0, *durations[:-1]]) if any(durations) else None

    def _inspect(self) -> list[float]:
        """Read size, count and rate; the seconds that each frame is shown."""
        self._image = Pillow.open(self._file, formats=("GIF", "PNG", "WEBP"))
        check_frame(*self._image.size, self._name, self._policy)
        self.size = (self._image.height, self._image.width)
        self.total = getattr(self._image, "n_frames", 1)
        if self.total > self._policy.max_video_frames:
            raise MediaLimitError(
                f"{self._name}: expected at most {self._policy.max_video_frames} frames, got {self.total}"
            )
        drawn, most = (
            self.total * self._image.width * self._image.height,
            DRAWN_TO_TAKEN * self._policy.max_sampled_pixels,
        )
        if drawn > most:
            raise MediaLimitError(
                f"{self._name}: expected an animation of at most {most} pixels in all frames, got {self.total} of "
                f"{self._image.width}x{self._image.height}"
            )
        deadline = time.monotonic() + self._policy.max_decode_seconds
        durations = []
        for index in range(self.total):
            self._image.seek(index)
            if self._image.format == "WEBP":  # tells a frame's time only once it is decoded
                self._image.load()
            durations.append(self._image.info.get("duration", 0) / 1000)
            check_time(deadline, self._name, self._policy)
        seconds = sum(durations)
        self.rate = self.total / seconds if seconds > 0 else 10.0  # what browsers show where no time is given
        return durations

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for index in indices:
            try:
                self._image.seek(index)
                yield np.array(self._image.convert("RGBA").convert("RGB"))
            except _PILLOW_DAMAGE as error:
                raise damaged(self._name, error) from error

    def close(self) -> None:
        self._file.close()
