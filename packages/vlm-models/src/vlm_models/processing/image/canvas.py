"""Pictures stretched onto a canvas of equal tiles whose shape is nearest to theirs, with a thumbnail (InternVL, GOT-OCR 2).

+---+---+---+
| 1 | 2 | 3 |     3 x 1 tiles for a wide picture; proportions are not kept
+---+---+---+
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick
from .dynamic import CLIP_NORMALIZE
from .fixed import sides
from .pixels import BICUBIC, Normalize, resize


def nearest_canvas(height: int, width: int, tile: tuple[int, int], least: int, most: int) -> tuple[int, int]:
    """Rows and columns of tiles, `least` to `most` in all, nearest to the picture's proportions.

    Among equals the larger one, as long as the picture covers more than half of it. With nothing better, one tile."""
    grids = [(r, c) for c in range(1, most + 1) for r in range(1, most + 1) if least <= r * c <= most]
    ratio, best, gap = width / height, (1, 1), float("inf")
    for rows, columns in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(ratio - columns / rows)
        covers = height * width > 0.5 * tile[0] * tile[1] * rows * columns
        if distance < gap or (distance == gap and covers):
            best, gap = (rows, columns), distance
    return best


@dataclass(frozen=True)
class CanvasStrategy:
    """tile: (height, width) in pixels. cuts: whether pictures are cut into tiles at all."""

    tile: tuple[int, int]
    cuts: bool = False
    min_tiles: int = 1
    max_tiles: int = 12
    resample: int = BICUBIC
    normalize: Normalize = CLIP_NORMALIZE

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: CanvasStrategy) -> CanvasStrategy:
        """From preprocessor_config.json. Raises ProcessingError for a size that is not height and width."""
        tile = sides(pick(files, "size", {"height": default.tile[0], "width": default.tile[1]}))
        if tile is None:
            raise ProcessingError(f"preprocessor: size {files.get('size')!r} is not supported (height and width)")
        return cls(
            tile,
            bool(pick(files, "crop_to_patches", default.cuts)),
            int(pick(files, "min_patches", default.min_tiles)),
            int(pick(files, "max_patches", default.max_tiles)),
            int(pick(files, "resample", default.resample)),
            Normalize.from_files(files, default.normalize.mean or (), default.normalize.std or ()),
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles, the thumbnail not counted."""
        if not self.cuts or self.max_tiles <= 1:
            return 1, 1
        return nearest_canvas(height, width, self.tile, self.min_tiles, self.max_tiles)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [n, 3, height, width]: tiles row by row, then the whole, where there are several."""
        rows, columns = self.grid(rgb.shape[0], rgb.shape[1])
        height, width = self.tile
        canvas = resize(rgb, rows * height, columns * width, self.resample)
        tiles = canvas.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
        if len(tiles) > 1:
            tiles = np.concatenate([tiles, resize(rgb, height, width, self.resample)[None]])
        return np.ascontiguousarray(self.normalize(tiles).transpose(0, 3, 1, 2))
