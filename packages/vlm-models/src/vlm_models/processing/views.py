"""Processing of families that read a page as one padded view and, where it is large, tiles of it (DeepSeek-OCR 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.family import TokenTable
from ..core.inputs import MediaItem
from ..errors import ProcessingError
from .base import MediaOptions, Processing, pick
from .image.canvas import nearest_canvas
from .image.fixed import pad_square, reshaped, sides
from .image.pixels import BICUBIC, HALF_MEAN, HALF_STD, Normalize, resize

HALF_NORMALIZE = Normalize(mean=HALF_MEAN, std=HALF_STD)


@dataclass(frozen=True)
class ViewStrategy:
    """view, tile: pixels a side of the whole and of a tile. cuts: whether pictures larger than a tile are cut at all; if not,
    the view is of a tile's size."""

    view: int = 1024
    tile: int = 768
    cuts: bool = True
    min_tiles: int = 2
    max_tiles: int = 6
    background: tuple[int, ...] = (127, 127, 127)
    resample: int = BICUBIC
    normalize: Normalize = HALF_NORMALIZE

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: ViewStrategy) -> ViewStrategy:
        """From preprocessor_config.json. Raises ProcessingError for a view that is not square."""
        size = sides(pick(files, "size", default.view))
        if size is None or size[0] != size[1]:
            raise ProcessingError(f"preprocessor: size {files.get('size')!r} is not supported (a square)")
        return cls(
            size[0],
            int(pick(files, "tile_size", default.tile)),
            bool(pick(files, "crop_to_patches", default.cuts)),
            int(pick(files, "min_patches", default.min_tiles)),
            int(pick(files, "max_patches", default.max_tiles)),
            tuple(int(value) for value in pick(files, "background_color", default.background)),
            int(pick(files, "resample", default.resample)),
            Normalize.from_files(files, default.normalize.mean or (), default.normalize.std or ()),
        )

    def whole(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [1, 3, side, side]: resized in its proportions, the rest filled."""
        side = self.view if self.cuts else self.tile
        scale = side / max(rgb.shape[:2])
        height, width = (round(length * scale) for length in rgb.shape[:2])
        if min(height, width) < 1:
            raise ProcessingError(f"a picture of {rgb.shape[0]}x{rgb.shape[1]} is too long for a view of {side} pixels")
        square = pad_square(resize(rgb, height, width, self.resample), self.background)
        return np.ascontiguousarray(self.normalize(square).transpose(2, 0, 1))[None]

    def tiles(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [n, 3, tile, tile], row by row; none for a picture no larger than a tile."""
        height, width = rgb.shape[:2]
        if not self.cuts or max(height, width) <= self.tile:
            return np.zeros((0, 3, self.tile, self.tile), np.float32)
        tile = self.tile
        rows, columns = nearest_canvas(height, width, (tile, tile), self.min_tiles, self.max_tiles)
        canvas = resize(rgb, rows * tile, columns * tile, self.resample)
        cells = canvas.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
        return np.ascontiguousarray(self.normalize(cells).transpose(0, 3, 1, 2))


class ViewProcessing(Processing):
    """Items hold `pixels` [1, 3, side, side] and `tiles` [n, 3, tile, tile]; a separator ends each picture's rows.

    view_tokens, tile_tokens: rows that a view and a tile yield."""

    unpack_names = frozenset({"pixel_values", "pixel_values_local", "num_local_patches"})

    def __init__(
        self, image_token: int, strategy: ViewStrategy, view_tokens: int, tile_tokens: int, table: TokenTable | None
    ) -> None:
        super().__init__(table)
        self.token_ids = {"image": image_token}
        self.strategy, self.view_tokens, self.tile_tokens = strategy, view_tokens, tile_tokens

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        rgb = reshaped(rgb, options)
        return self._item(self.strategy.whole(rgb), self.strategy.tiles(rgb))

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        if not arrays:
            return []
        if "pixel_values" not in arrays:
            raise ProcessingError("pixel_values is missing beside what belongs to it")
        views = arrays["pixel_values"]
        counts = arrays.get("num_local_patches", np.zeros(len(views), int)).astype(int)
        tile = self.strategy.tile
        tiles = arrays.get("pixel_values_local", np.zeros((0, 3, tile, tile), np.float32))
        if len(counts) != len(views) or counts.sum() != len(tiles):
            raise ProcessingError(
                f"num_local_patches {counts.tolist()} fits neither {len(views)} views nor {len(tiles)} tiles"
            )
        stops = np.cumsum(counts)
        return [self._item(v[None], tiles[e - c : e]) for v, c, e in zip(views, counts, stops, strict=True)]

    def _item(self, view: np.ndarray, tiles: np.ndarray) -> MediaItem:
        count = self.view_tokens + len(tiles) * self.tile_tokens + 1
        return MediaItem("image", {"pixels": view, "tiles": tiles}, count)
