"""Pictures on a white canvas of square crops, with the whole as one more (Phi-4 Multimodal's dynamic HD).

+-----+-----+
|#####|###  |     proportions are kept; a mask says which patches of a crop hold picture
|#####|###  |
+-----+-----+
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick
from .canvas import nearest_canvas
from .fixed import sides
from .pixels import BICUBIC, BILINEAR, HALF_MEAN, HALF_STD, Normalize, resize
from .taps import resample

# a picture that keeps fewer pixels a side is refused
LEAST_SIDE = 10


@dataclass(frozen=True)
class CropStrategy:
    """side: pixels a side of a crop. patch: pixels a side of a patch. most: crops of one picture."""

    side: int
    patch: int
    most: int
    normalize: Normalize

    @classmethod
    def from_files(cls, files: Mapping[str, Any], side: int, patch: int) -> CropStrategy:
        """From preprocessor_config.json; side and patch are the model's. Raises ProcessingError where the file has others."""
        size = sides(pick(files, "size", side))
        if size != (side, side) or int(pick(files, "patch_size", patch)) != patch:
            raise ProcessingError(
                f"preprocessor: crops of {files.get('size')!r} in patches of {files.get('patch_size')!r} do not fit the model's "
                f"{side} in patches of {patch}"
            )
        if pick(files, "resample", BICUBIC) != BICUBIC:
            raise ProcessingError(f"preprocessor: resample {files['resample']!r} is not supported ({BICUBIC}, bicubic)")
        return cls(side, patch, int(pick(files, "dynamic_hd", 36)), Normalize.from_files(files, HALF_MEAN, HALF_STD))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of crops."""
        rows, columns = math.ceil(height / self.side), math.ceil(width / self.side)
        if rows * columns <= self.most:
            return rows, columns
        return nearest_canvas(height, width, (self.side, self.side), 1, self.most)

    def __call__(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] -> pixels float32 [1 + crops, 3, side, side], the whole first, and the masks of their patches, bool
        [1 + crops, patches a side, patches a side]. Raises ProcessingError for pictures too narrow to see."""
        rows, columns = self.grid(*rgb.shape[:2])
        high, wide = rows * self.side, columns * self.side
        across, down = wide / rgb.shape[1], high / rgb.shape[0]
        if across < down:
            height, width = int(rgb.shape[0] * across), wide
        else:
            height, width = high, int(rgb.shape[1] * down)
        if min(height, width) < LEAST_SIDE:
            raise ProcessingError(
                f"a picture of {rgb.shape[0]}x{rgb.shape[1]} would be seen as {height}x{width}; "
                f"crop it so that {LEAST_SIDE} pixels a side are left"
            )
        canvas = np.full((high, wide, 3), 255, np.uint8)
        canvas[:height, :width] = resize(rgb, height, width, BILINEAR)
        pixels, side = self.normalize(canvas), self.side
        crops = pixels.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        views = np.concatenate([resample(pixels, side, side, "cubic")[None], crops])
        cells = side // self.patch
        mask = np.ones((rows * cells, columns * cells), bool)
        mask[rows * cells - (high - height) // self.patch :] = False
        mask[:, columns * cells - (wide - width) // self.patch :] = False
        masks = mask.reshape(rows, cells, columns, cells).swapaxes(1, 2).reshape(-1, cells, cells)
        return np.ascontiguousarray(views.transpose(0, 3, 1, 2)), np.concatenate(
            [np.ones((1, cells, cells), bool), masks]
        )
