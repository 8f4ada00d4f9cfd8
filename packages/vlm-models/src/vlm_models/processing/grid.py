"""Processing of families whose media are grids of patches with three-axis positions (Qwen2-VL and its kin)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind, Span
from ..errors import ProcessingError
from .base import MediaOptions, Processing
from .image.dynamic import PatchStrategy
from .positions import grid_coordinates, mrope
from .video.sampling import Sampling, VideoSampling

# what the reference assumes of frames that come without times
UNKNOWN_RATE = 24


class GridProcessing(Processing):
    """Images and videos as patches [n, 3 * frames * patch^2] with grids (t, h, w)."""

    unpack_names = frozenset({"pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"})

    def __init__(
        self,
        image_token: int,
        video_token: int | None,
        images: PatchStrategy,
        videos: PatchStrategy,
        table: TokenTable | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__(table)
        self.sampling: Sampling = sampling or VideoSampling(spread="starts", group=videos.frames)
        ids: dict[MediaKind, int] = {"image": image_token}
        if video_token is not None:
            ids["video"] = video_token
        self.token_ids = ids
        self.images, self.videos = images, videos

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        height, width = self.images.size(rgb.shape[0], rgb.shape[1], options)
        return self._item("image", *self.images(rgb[None], height, width))

    def sample(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        if "video" not in self.token_ids:
            return super().sample(total, rate, options)  # refuses
        return self.sampling(total, rate, options)

    def video(self, frames: np.ndarray, timestamps: Sequence[float], options: MediaOptions) -> MediaItem:
        if "video" not in self.token_ids:
            return super().video(frames, timestamps, options)  # refuses
        if len(frames) == 0 or len(frames) != len(timestamps):
            raise ProcessingError(f"a video needs frames with a time each; got {len(frames)} and {len(timestamps)}")
        height, width = self.videos.size(frames.shape[1], frames.shape[2], options, len(frames))
        item = self._item("video", *self.videos(frames, height, width))
        seconds = self.videos.frames * frame_seconds(timestamps, options.duration)
        return replace(item, facts={"timestamps": tuple(timestamps), "seconds_per_patch": seconds})

    def times(self, item: MediaItem) -> np.ndarray:
        """Time coordinate of each temporal patch of an item: [t]."""
        return np.arange(item.grid[0])

    def positions(
        self, tokens: np.ndarray, items: Sequence[MediaItem], spans: Sequence[Span]
    ) -> tuple[np.ndarray, int]:
        media = []
        for span in spans:
            _, h, w = items[span.item].grid
            merge = self._strategy(items[span.item].kind).merge
            cells = grid_coordinates(self.times(items[span.item]), h // merge, w // merge)
            media.append((span.start, cells[:, span.offset : span.offset + span.length], max(h, w) // merge))
        return mrope(len(tokens), media)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        items: list[MediaItem] = []
        names: tuple[tuple[MediaKind, str, str], ...] = (
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        )
        for kind, pixels, grids in names:
            if pixels not in arrays and grids not in arrays:
                continue
            if pixels not in arrays or grids not in arrays:
                raise ProcessingError(f"{pixels} and {grids} belong together; only one was given")
            at = 0
            for t, h, w in arrays[grids].astype(int).tolist():
                items.append(self._item(kind, arrays[pixels][at : at + t * h * w], (t, h, w)))
                at += t * h * w
            if at != len(arrays[pixels]):
                raise ProcessingError(f"{grids} describes {at} patches, {pixels} has {len(arrays[pixels])}")
        return items

    def _strategy(self, kind: MediaKind) -> PatchStrategy:
        return self.images if kind == "image" else self.videos

    def _item(self, kind: MediaKind, patches: np.ndarray, grid: tuple[int, int, int]) -> MediaItem:
        t, h, w = grid
        return MediaItem(kind, {"patches": patches}, t * h * w // self._strategy(kind).merge ** 2, grid)


def frame_seconds(timestamps: Sequence[float], duration: float | None) -> float:
    """Seconds one sampled frame stands for: its share of the video, or the mean gap where the duration is not known."""
    if duration is not None:
        return duration / len(timestamps)
    if len(timestamps) < 2:
        return 1 / UNKNOWN_RATE
    return (timestamps[-1] - timestamps[0]) / (len(timestamps) - 1)
