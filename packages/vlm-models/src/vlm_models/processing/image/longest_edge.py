"""Pictures kept at their own size up to a longest edge, each side filled up to whole patches (Pixtral)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick
from .dynamic import CLIP_NORMALIZE
from .fixed import sides
from .pixels import BICUBIC, Normalize, resize


@dataclass(frozen=True)
class LongestEdgeStrategy:
    """limit: most pixels (height, width); patch: what both sides are multiples of after resizing."""

    limit: tuple[int, int]
    patch: int
    resample: int = BICUBIC
    normalize: Normalize = CLIP_NORMALIZE

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: LongestEdgeStrategy) -> LongestEdgeStrategy:
        """From preprocessor_config.json; the patch is the model's own. Raises ProcessingError for an unknown kind of size."""
        given = pick(files, "size", {"longest_edge": default.limit[0]})
        edge = given.get("longest_edge") if isinstance(given, Mapping) else None
        limit = (int(edge), int(edge)) if edge else sides(given)
        if limit is None:
            raise ProcessingError(f"preprocessor: size {given!r} is not supported (longest_edge, or height and width)")
        mean, std = default.normalize.mean or (), default.normalize.std or ()
        return cls(
            limit,
            default.patch,
            int(pick(files, "resample", default.resample)),
            Normalize.from_files(files, mean, std),
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        ratio = max(height / self.limit[0], width / self.limit[1])
        if ratio > 1:
            height, width = math.floor(height / ratio), math.floor(width / ratio)
        rows, columns = (height - 1) // self.patch + 1, (width - 1) // self.patch + 1
        if rows < 1 or columns < 1:
            raise ProcessingError(f"a picture this long and thin has no pixels left at {height}x{width}")
        return rows * self.patch, columns * self.patch

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [3, height, width]."""
        resized = resize(rgb, *self.size(rgb.shape[0], rgb.shape[1]), self.resample)
        return np.ascontiguousarray(self.normalize(resized).transpose(2, 0, 1))
