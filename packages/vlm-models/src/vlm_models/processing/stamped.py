"""Processing of grid families that write each frame group's time in front of it (Qwen3-VL, Qwen3.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem
from .grid import GridProcessing
from .image.dynamic import PatchStrategy
from .video.sampling import VideoSampling


class StampedGridProcessing(GridProcessing):
    """A video is a row of pictures: `<0.4 seconds>` start-of-vision tokens end-of-vision, for each group of frames.

    marks: ids of the tokens that open and close a picture."""

    def __init__(
        self,
        image_token: int,
        video_token: int,
        marks: tuple[int, int],
        images: PatchStrategy,
        videos: PatchStrategy,
        table: TokenTable | None = None,
        sampling: VideoSampling | None = None,
    ) -> None:
        super().__init__(image_token, video_token, images, videos, table, sampling)
        self.marks = marks

    def times(self, item: MediaItem) -> np.ndarray:
        return np.zeros(item.grid[0]) if item.kind == "video" else super().times(item)

    def replacement(self, item: MediaItem) -> str:
        if item.kind == "image":
            return super().replacement(item)
        opening, closing = (self._text(mark) for mark in self.marks)
        tokens = self._text(self.token_ids["video"]) * (item.num_tokens // item.grid[0])
        stamps = group_means(item.facts["timestamps"], self.videos.frames)
        return "".join(f"<{stamp:.1f} seconds>{opening}{tokens}{closing}" for stamp in stamps)


def group_means(timestamps: Sequence[float], group: int) -> list[float]:
    """Middle between the first and the last time of each group of frames; the last frame repeats to fill one up."""
    times = list(timestamps)
    times += times[-1:] * (-len(times) % group)
    return [(times[i] + times[i + group - 1]) / 2 for i in range(0, len(times), group)]
