"""Read videos with decord."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from vlm_runtime.errors import MediaError
from vlm_runtime.media.policy import MediaPolicy
from vlm_runtime.media.reader import check_frame, check_time, check_video, damaged, line
from vlm_runtime.media.source import Content


class DecordReader:
    """decord, where it has a wheel; it cannot say how frames are turned."""

    def __init__(self, content: Content, policy: MediaPolicy) -> None:
        import decord  # loads its own FFmpeg

        name = content.name
        self._name, self._policy = name, policy
        try:
            with content.open() as file:
                self._video = decord.VideoReader(file, num_threads=1)
            height, width, _ = self._video[0].shape
            check_frame(width, height, name, policy)
            self.total, self.rate, self.size = len(self._video), float(self._video.get_avg_fps()), (height, width)
            self.times = self._video.get_frame_timestamp(list(range(self.total)))[:, 0].astype(np.float64)
        except MediaError:
            raise
        except (decord.DECORDError, IndexError, ValueError, RuntimeError, OSError) as error:
            raise MediaError(f"{name}: expected a video, got: {line(error)}") from error
        self.times = self.times - self.times[0]
        self._error = decord.DECORDError
        check_video(self.total, self.rate, name, policy)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        deadline = time.monotonic() + self._policy.max_decode_seconds
        for index in indices:
            check_time(deadline, self._name, self._policy)
            try:
                yield self._video[index].asnumpy()
            except (self._error, IndexError, RuntimeError) as error:
                raise damaged(self._name, error) from error

    def close(self) -> None:
        del self._video
