"""Square views of a picture that overlap, and the cells of patches that become tokens (Molmo 2).

+-----+-----+     each view sees a margin of its neighbours; a patch of the canvas is taken from the view in
|   : | :   |     whose middle it lies
+-----+-----+
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick
from .fixed import sides
from .pixels import BILINEAR, HALF_MEAN, HALF_STD, Normalize
from .taps import resample

HALF_NORMALIZE = Normalize(mean=HALF_MEAN, std=HALF_STD)


def cells_of(numbers: np.ndarray, pool: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Patch numbers [rows, columns] in cells of `pool` patches: int32 [cells, pool rows * pool columns], -1 for none, and how many
    rows and columns of cells. What is missing is shared by both edges, an odd rest going to the last."""
    missing = [-length % side for length, side in zip(numbers.shape, pool, strict=True)]
    padded = np.pad(numbers, [(rest // 2, rest - rest // 2) for rest in missing], constant_values=-1)
    rows, columns = padded.shape[0] // pool[0], padded.shape[1] // pool[1]
    cells = padded.reshape(rows, pool[0], columns, pool[1]).swapaxes(1, 2).reshape(rows * columns, -1)
    return cells.astype(np.int32), (rows, columns)


def tiling(height: int, width: int, window: int, most: int) -> tuple[int, int]:
    """Rows and columns of windows: the canvas that a picture has to grow least to fill; if none is large enough, the one it has
    to shrink least for. Sizes may be negative: what is smaller than the margins."""
    grids = sorted(
        ((r, c) for r in range(1, most + 1) for c in range(1, most + 1) if r * c <= most),
        key=lambda g: (g[0] * g[1], g[0]),
    )
    with np.errstate(divide="ignore"):
        # float32 as in the reference: equal canvases must stay equal
        scales = (np.array(grids, np.float32) * np.float32(window) / np.array([height, width], np.float32)).min(axis=1)
    if (scales < 1).all():
        return grids[int(scales.argmax())]
    return grids[int(np.where(scales < 1, np.inf, scales).argmin())]


@dataclass(frozen=True)
class OverlapStrategy:
    """side, patch: pixels a side of a view and of a patch. most: views of one picture, the whole not counted. margins: patches that
    a view sees beyond its window, before and behind. pool: rows and columns of patches to a token."""

    side: int
    patch: int
    pool: tuple[int, int]
    most: int = 8
    margins: tuple[int, int] = (4, 4)
    normalize: Normalize = HALF_NORMALIZE

    @classmethod
    def from_files(cls, files: Mapping[str, Any], side: int, patch: int, pool: tuple[int, int]) -> OverlapStrategy:
        """From preprocessor_config.json or the file for video; side and patch are the model's, and pool where the file has none.
        Raises ProcessingError where the file has others."""
        if sides(pick(files, "size", side)) != (side, side) or pick(files, "patch_size", patch) != patch:
            raise ProcessingError(
                f"preprocessor: views of {files.get('size')!r} in patches of {files.get('patch_size')!r} do not fit the model's "
                f"{side} in patches of {patch}"
            )
        if pick(files, "resample", BILINEAR) != BILINEAR:
            raise ProcessingError(
                f"preprocessor: resample {files['resample']!r} is not supported ({BILINEAR}, bilinear)"
            )
        before, behind = pick(files, "overlap_margins", cls.margins)
        rows, columns = pick(files, "pooling_size", pool)
        normalize = Normalize.from_files(files, HALF_MEAN, HALF_STD)
        return cls(side, patch, (rows, columns), int(pick(files, "max_crops", cls.most)), (before, behind), normalize)

    def whole(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> its patches as one view, float32 [1, patches, patch^2 * 3]."""
        return self._patches(self._resized(rgb, self.side, self.side)[None])

    def whole_cells(self) -> tuple[np.ndarray, tuple[int, int]]:
        """`cells_of` one view."""
        count = self.side // self.patch
        return cells_of(np.arange(count * count).reshape(count, count), self.pool)

    def __call__(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
        """uint8 [H, W, 3] -> patches float32 [1 + views, patches, patch^2 * 3], the whole first; cells [tokens, pool], the whole's
        first; rows and columns of cells of the whole and of the canvas. Raises ProcessingError for margins wider than a view."""
        count, (before, behind) = self.side // self.patch, self.margins
        inner, margin = count - before - behind, (before + behind) * self.patch
        if inner < 1:
            raise ProcessingError(f"preprocessor: overlap_margins {[before, behind]} leave nothing of {count} patches")
        window = inner * self.patch
        rows, columns = tiling(rgb.shape[0] - margin, rgb.shape[1] - margin, window, self.most)
        canvas = self._resized(rgb, rows * window + margin, columns * window + margin)
        starts = [(row * window, column * window) for row in range(rows) for column in range(columns)]
        views = np.stack([canvas[y : y + self.side, x : x + self.side] for y, x in starts])
        numbers = np.arange(rows * columns * count * count).reshape(rows, columns, count, count)
        numbers[1:, :, :before] = numbers[:, 1:, :, :before] = -1
        numbers[:-1, :, count - behind :] = numbers[:, :-1, :, count - behind :] = -1
        flat = numbers.swapaxes(1, 2).reshape(-1)
        kept = flat[flat >= 0].reshape(rows * inner + before + behind, columns * inner + before + behind)
        low, low_grid = self.whole_cells()
        high, grid = cells_of(kept, self.pool)
        cells = np.concatenate([low, np.where(high >= 0, high + count * count, -1)]).astype(np.int32)
        return np.concatenate([self.whole(rgb), self._patches(views)]), cells, (*low_grid, *grid)

    def _resized(self, rgb: np.ndarray, height: int, width: int) -> np.ndarray:
        return self.normalize(np.clip(np.round(resample(rgb, height, width, "linear")), 0, 255))

    def _patches(self, views: np.ndarray) -> np.ndarray:
        """[n, side, side, 3] -> [n, patches, patch^2 * 3], channels last."""
        n, count = len(views), self.side // self.patch
        cut = views.reshape(n, count, self.patch, count, self.patch, 3).swapaxes(2, 3)
        return np.ascontiguousarray(cut.reshape(n, count * count, -1))
