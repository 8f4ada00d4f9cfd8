"""Processing of families that see a picture as a thumbnail and tiles (LLaVA-NeXT, LLaVA-OneVision)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem, MediaKind
from ..errors import ProcessingError
from .base import MediaOptions, Processing
from .image.fixed import FixedStrategy, reshaped
from .image.tiled import TiledStrategy
from .video.sampling import VideoSampling


class TiledPictures(Processing):
    """Items hold `pixels` [1 + tiles, 3, tile, tile]; grids count tiles; facts `margin` and `map` say how the features of the
    tiles become one map. A picture in one tile has grid (1, 1) and no facts."""

    unpack_names = frozenset({"pixel_values", "image_sizes"})

    def __init__(self, image_token: int, strategy: TiledStrategy, table: TokenTable | None = None) -> None:
        super().__init__(table)
        self.token_ids: dict[MediaKind, int] = {"image": image_token}
        self.strategy = strategy

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        rgb = reshaped(rgb, options)
        return self._tiled(self.strategy(rgb), rgb.shape[0], rgb.shape[1])

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        if not arrays:
            return []
        if not {"pixel_values", "image_sizes"} <= set(arrays):
            raise ProcessingError("pixel_values and image_sizes belong together; only one was given")
        sizes = arrays["image_sizes"].astype(int).tolist()
        return [self._tiled(p, h, w) for p, (h, w) in zip(arrays["pixel_values"], sizes, strict=True)]

    def _tiled(self, pixels: np.ndarray, height: int, width: int) -> MediaItem:
        """pixels may be filled up with further tiles, which are left out. height, width: the picture's own."""
        grid = self.strategy.grid(height, width)
        margin, (rows, columns) = self.strategy.map_of(height, width)
        used = pixels[: 1 + grid[0] * grid[1]]
        count = self.strategy.patches**2 + rows * (columns + 1)
        return MediaItem("image", {"pixels": used}, count, grid, {"margin": margin, "map": (rows, columns)})


class TiledVideo(TiledPictures):
    """Tiled pictures, one-tile pictures where a prompt has several, and videos whose frames are pooled to a quarter."""

    unpack_names = TiledPictures.unpack_names | {"batch_num_images", "pixel_values_videos"}

    def __init__(
        self,
        image_token: int,
        video_token: int,
        strategy: TiledStrategy,
        frames: FixedStrategy,
        table: TokenTable | None = None,
    ) -> None:
        super().__init__(image_token, strategy, table)
        self.token_ids = {"image": image_token, "video": video_token}
        self.frames = frames

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        if options.num_images == 1:
            return super().image(rgb, options)
        return self._alone(self.strategy.alone(reshaped(rgb, options)))

    def video(self, frames: np.ndarray, timestamps: Sequence[float], options: MediaOptions) -> MediaItem:
        return self._video(np.stack([self.frames(reshaped(frame, options)) for frame in frames]))

    def sample(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        """A frame a second, at most 32: the published files leave the number to the caller."""
        return VideoSampling(fps=1.0, min_frames=1, max_frames=32)(total, rate, options)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        pictures = {name: arrays[name] for name in arrays if name in TiledPictures.unpack_names}
        items = super().unpack(pictures)
        if "batch_num_images" in arrays and items:
            together = np.repeat(arrays["batch_num_images"], arrays["batch_num_images"])
            pairs = zip(items, together, arrays["pixel_values"], strict=True)
            items = [item if count == 1 else self._alone(pixels[:1]) for item, count, pixels in pairs]
        return items + [self._video(clip) for clip in arrays.get("pixel_values_videos", ())]

    def _alone(self, pixels: np.ndarray) -> MediaItem:
        return MediaItem("image", {"pixels": pixels}, self.strategy.patches**2 + 1, (1, 1))

    def _video(self, pixels: np.ndarray) -> MediaItem:
        count = len(pixels) * math.ceil(self.strategy.patches / 2) ** 2 + 1
        return MediaItem("video", {"pixels": pixels}, count, (len(pixels),))
