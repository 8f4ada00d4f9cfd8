"""Pictures resized to fill a budget of tokens in their own proportions, as flat patches (Gemma 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import MediaOptions, pick
from .pixels import BICUBIC, Normalize, resize

_PLAIN = Normalize(mean=None, std=None)


@dataclass(frozen=True)
class BudgetStrategy:
    """patch: pixels a side. pool: patches a side of a token. tokens: most of a picture."""

    patch: int
    pool: int
    tokens: int
    resizes: bool = True
    resample: int = BICUBIC
    normalize: Normalize = _PLAIN

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: BudgetStrategy) -> BudgetStrategy:
        """From a preprocessor file; absent keys as in `default`. Raises ProcessingError where patches are not the model's."""
        patch, pool = (
            int(pick(files, "patch_size", default.patch)),
            int(pick(files, "pooling_kernel_size", default.pool)),
        )
        if (patch, pool) != (default.patch, default.pool):
            raise ProcessingError(
                f"preprocessor: patches of {patch} pixels, {pool} a side of a token, are not the model's "
                f"{default.patch} and {default.pool}"
            )
        return replace(
            default,
            tokens=int(pick(files, "max_soft_tokens", default.tokens)),
            resizes=bool(pick(files, "do_resize", True)),
            resample=int(pick(files, "resample", default.resample)),
            normalize=Normalize.from_files(files, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        )

    def size(self, height: int, width: int, options: MediaOptions) -> tuple[int, int]:
        """Height and width after resizing, multiples of a token's side. Raises ProcessingError where nothing would be left."""
        side = self.patch * self.pool
        budget = options.area_limits(0, self.tokens * side**2)[1]
        most = budget // side**2
        if most < 1:
            raise ProcessingError(f"max_pixels {budget} is less than one token of {side} x {side} pixels")
        # the order of these products is the reference's, whose rounding shows
        factor = math.sqrt(most * side**2 / (height * width))
        rows, columns = math.floor(factor * height / side), math.floor(factor * width / side)
        if rows == 0:
            rows, columns = 1, min(width // height, most)
        elif columns == 0:
            rows, columns = min(height // width, most), 1
        return rows * side, columns * side

    def __call__(self, rgb: np.ndarray, options: MediaOptions) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8 [H, W, 3] -> float32 [rows * columns, patch * patch * 3] and (rows, columns) of patches."""
        if options.resize_shape is not None:
            rgb = resize(rgb, *options.resize_shape, self.resample)
        side = self.patch * self.pool
        if self.resizes:
            rgb = resize(rgb, *self.size(rgb.shape[0], rgb.shape[1], options), self.resample)
        elif rgb.shape[0] % side or rgb.shape[1] % side:
            raise ProcessingError(f"without resizing, sides must be multiples of {side}; got {rgb.shape[:2]}")
        rows, columns = rgb.shape[0] // self.patch, rgb.shape[1] // self.patch
        cells = self.normalize(rgb).reshape(rows, self.patch, columns, self.patch, 3).swapaxes(1, 2)
        return np.ascontiguousarray(cells.reshape(rows * columns, -1)), (rows, columns)
