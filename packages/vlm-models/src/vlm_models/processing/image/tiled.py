"""Pictures of any shape as a thumbnail and a grid of square tiles, the grid chosen from a list (LLaVA-NeXT's anyres).

+----+----+          the picture is resized into the best resolution of the list, keeping its proportions, and the
|thumb    |   +      rest is filled with black; the map of features is later cut to where the picture was
+----+----+
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick
from .fixed import FixedStrategy, pad_square, sides
from .pixels import resize

Sizes = tuple[tuple[int, int], ...]


def best_resolution(height: int, width: int, choices: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) that keeps most of the picture's pixels and, among equals, wastes least."""

    def merit(choice: tuple[int, int]) -> tuple[int, int]:
        scale = min(choice[1] / width, choice[0] / height)
        kept = min(int(width * scale) * int(height * scale), height * width)
        return kept, kept - choice[0] * choice[1]

    return max(choices, key=merit)


def unpadded(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns to cut off on both sides of a feature map [rows, columns] where the picture leaves it empty."""
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


@dataclass(frozen=True)
class TiledStrategy:
    """choices: resolutions (height, width); tile: pixels a side; patches: features along a tile's side; max_tiles: maps with
    many more features than that many tiles are shrunk. each: what is done to the thumbnail and to every tile."""

    choices: Sizes
    tile: int
    patches: int
    each: FixedStrategy
    max_tiles: int | None = None

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: TiledStrategy) -> TiledStrategy:
        """From preprocessor_config.json; absent keys as in `default`. Raises ProcessingError."""
        choices = tuple((int(h), int(w)) for h, w in pick(files, "image_grid_pinpoints", default.choices))
        each = FixedStrategy.from_files(files, default.each)
        crop = sides(files.get("crop_size"))
        tile = crop[0] if crop else each.shortest or (each.size or (default.tile,))[0]
        if tile != default.tile or any(h % tile or w % tile for h, w in choices):
            raise ProcessingError(
                f"preprocessor: tiles of {tile} pixels do not fit the tower's {default.tile} or the grids"
            )
        return cls(choices, tile, default.patches, each, default.max_tiles)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles."""
        best = best_resolution(height, width, self.choices)
        return best[0] // self.tile, best[1] // self.tile

    def map_of(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Margins to cut from the map of features, and the rows and columns it has in the end."""
        rows, columns = (count * self.patches for count in self.grid(height, width))
        margin = unpadded(height, width, rows, columns)
        rows, columns = rows - 2 * margin[0], columns - 2 * margin[1]
        if self.max_tiles is not None:
            ratio = math.sqrt(rows * columns / (self.max_tiles * self.patches**2))
            if ratio > 1.1:
                rows, columns = int(rows // ratio), int(columns // ratio)
        return margin, (rows, columns)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [1 + tiles, 3, tile, tile]: the thumbnail, then the tiles row by row."""
        height, width = best_resolution(rgb.shape[0], rgb.shape[1], self.choices)
        inner = fit_inside(rgb.shape[0], rgb.shape[1], height, width)
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        canvas = np.zeros((height, width, 3), rgb.dtype)
        canvas[top : top + inner[0], left : left + inner[1]] = resize(rgb, *inner, self.each.resample)
        cells = canvas.reshape(height // self.tile, self.tile, width // self.tile, self.tile, 3).swapaxes(1, 2)
        thumbnail = resize(rgb, *(self.each.size or (self.tile, self.tile)), self.each.resample)
        return np.stack([self.each(part) for part in (thumbnail, *cells.reshape(-1, self.tile, self.tile, 3))])

    def alone(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [1, 3, tile, tile]: the whole picture in one tile, made square with the mean colour."""
        return self.each(pad_square(rgb, [int(value * 255) for value in self.each.normalize.mean or (0, 0, 0)]))[None]


def fit_inside(height: int, width: int, max_height: int, max_width: int) -> tuple[int, int]:
    """The largest size of the same proportions inside (max_height, max_width), rounded up."""
    down, across = max_height / height, max_width / width
    if across < down:
        return min(math.ceil(height * across), max_height), max_width
    return max_height, min(math.ceil(width * down), max_width)
