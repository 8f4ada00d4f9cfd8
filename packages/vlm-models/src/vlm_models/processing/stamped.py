"""Processing of grid families that show a video as pictures with their times in between (Qwen3-VL, Qwen3.5; GLM-4V)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.family import ProcessorFiles, TokenTable
from ..core.inputs import MediaItem, MediaKind
from .grid import GridProcessing
from .image.dynamic import PatchStrategy, VolumeStrategy
from .image.pixels import HALF_MEAN, HALF_STD, Normalize
from .video.sampling import Sampling, VideoSampling


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
        sampling: Sampling | None = None,
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


class SecondsGridProcessing(StampedGridProcessing):
    """Whole seconds stand behind each picture of a video: start-of-image tokens end-of-image `4`. Its feature tokens are those
    of pictures, between the marks of a video.

    video_mark: id of the placeholder of a video. video_marks: ids of the tokens around one."""

    def __init__(
        self,
        image_token: int,
        video_mark: int,
        video_marks: tuple[int, int],
        marks: tuple[int, int],
        images: PatchStrategy,
        videos: PatchStrategy,
        table: TokenTable | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__(image_token, image_token, marks, images, videos, table, sampling)
        self.video_mark, self.video_marks = video_mark, video_marks

    def placeholder(self, kind: MediaKind) -> str:
        return self._text(self.video_mark) if kind == "video" else super().placeholder(kind)

    def replacement(self, item: MediaItem) -> str:
        if item.kind == "image":
            return super().replacement(item)
        opening, closing = (self._text(mark) for mark in self.marks)
        tokens = self._text(self.token_ids["video"]) * (item.num_tokens // item.grid[0])
        times = item.facts["timestamps"][:: self.videos.frames]
        return "".join(f"{opening}{tokens}{closing}{int(time)}" for time in times)

    def places(self, tokens: np.ndarray) -> list[tuple[tuple[MediaKind, ...], np.ndarray]]:
        opening, closing = self.video_marks
        inside = np.cumsum(tokens == opening) > np.cumsum(tokens == closing)
        media = tokens == self.token_ids["image"]
        return [(("image",), np.flatnonzero(media & ~inside)), (("video",), np.flatnonzero(media & inside))]


def stamped_processing(
    tokens: tuple[int, int],
    marks: tuple[int, int],
    patches: tuple[int, int, int],
    files: ProcessorFiles,
    table: TokenTable | None,
) -> StampedGridProcessing:
    """From a checkpoint's files, with the defaults of Qwen3-VL. tokens: ids of picture and video; patches: pixels a side,
    patches a side of a token, frames."""
    images = PatchStrategy(*patches, normalize=Normalize(mean=HALF_MEAN, std=HALF_STD))
    videos = VolumeStrategy(*patches, 128 * 32**2, 768 * 32**2, normalize=images.normalize)
    return StampedGridProcessing(
        *tokens,
        marks,
        PatchStrategy.from_files(files.image, images),
        VolumeStrategy.from_files(files.video, videos),
        table,
        VideoSampling.from_files(files.video, VideoSampling()),
    )


def group_means(timestamps: Sequence[float], group: int) -> list[float]:
    """Middle between the first and the last time of each group of frames; the last frame repeats to fill one up."""
    times = list(timestamps)
    times += times[-1:] * (-len(times) % group)
    return [(times[i] + times[i + group - 1]) / 2 for i in range(0, len(times), group)]
