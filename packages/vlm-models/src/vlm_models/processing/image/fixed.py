"""Pictures brought to one size: the shortest edge or both sides resized, the middle cut out (CLIP, SigLIP and their kin)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import MediaOptions, pick
from .dynamic import CLIP_NORMALIZE
from .pixels import BICUBIC, Normalize, resize, resize_part

# pixels
_HUGE = 1 << 24


def reshaped(rgb: np.ndarray, options: MediaOptions) -> np.ndarray:
    """The picture at the size the caller asked for. Raises ProcessingError for limits of area, which such families lack."""
    if options.min_pixels is not None or options.max_pixels is not None:
        raise ProcessingError(
            "min_pixels and max_pixels do not apply: this family resizes pictures by their sides; use resize_shape"
        )
    return rgb if options.resize_shape is None else resize(rgb, *options.resize_shape)


def center_crop(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle [height, width, 3] of a picture; what is missing is black."""
    have = rgb.shape[:2]
    # a picture that is too small is first set in the middle of black, an odd rest going to the top and left
    grown = (max(height, have[0]), max(width, have[1]))
    before = tuple((g - h + 1) // 2 for g, h in zip(grown, have, strict=True))
    top, left = ((h - c) // 2 + b for h, c, b in zip(have, (height, width), before, strict=True))
    if grown != have:
        canvas = np.zeros((*grown, rgb.shape[2]), rgb.dtype)
        canvas[before[0] : before[0] + have[0], before[1] : before[1] + have[1]] = rgb
        rgb = canvas
    return rgb[top : top + height, left : left + width]


def pad_square(rgb: np.ndarray, color: Sequence[int]) -> np.ndarray:
    """A square picture with the given one in its middle."""
    height, width = rgb.shape[:2]
    side = max(height, width)
    canvas = np.empty((side, side, 3), rgb.dtype)
    canvas[:] = np.asarray(color, rgb.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = rgb
    return canvas


def sides(value: Any) -> tuple[int, int] | None:
    """(height, width) of a size in a preprocessor file: a number, or {height, width}. None where it is something else."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping) and value.get("height") and value.get("width"):
        return int(value["height"]), int(value["width"])
    return None


@dataclass(frozen=True)
class FixedStrategy:
    """shortest: edge to resize to, or size: both sides; crop: what is cut out after that; pad: make it square first."""

    size: tuple[int, int] | None = None
    shortest: int | None = None
    crop: tuple[int, int] | None = None
    pad: bool = False
    resample: int = BICUBIC
    normalize: Normalize = CLIP_NORMALIZE

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: FixedStrategy) -> FixedStrategy:
        """From preprocessor_config.json; absent keys as in `default`. Raises ProcessingError for an unknown kind of size."""
        given = files.get("size")
        size, shortest = default.size, default.shortest
        if isinstance(given, Mapping) and given.get("shortest_edge"):
            size, shortest = None, int(given["shortest_edge"])
        elif isinstance(given, int) and default.shortest is not None:
            size, shortest = None, given
        elif given is not None:
            size, shortest = sides(given), None
            if size is None:
                raise ProcessingError(
                    f"preprocessor: size {given!r} is not supported (shortest_edge, or height and width)"
                )
        if not pick(files, "do_resize", True):
            size = shortest = None
        crop = sides(pick(files, "crop_size", None)) or default.crop
        mean, std = default.normalize.mean or (), default.normalize.std or ()
        return cls(
            size,
            shortest,
            crop if pick(files, "do_center_crop", default.crop is not None) else None,
            bool(pick(files, "do_pad", default.pad)),
            int(pick(files, "resample", default.resample)),
            Normalize.from_files(files, mean, std),
        )

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [3, height, width]."""
        if self.pad:
            rgb = pad_square(rgb, [int(value * 255) for value in self.normalize.mean or (0, 0, 0)])
        if self.shortest is not None:
            rgb = self._by_shortest(rgb, shortest_edge(rgb.shape[0], rgb.shape[1], self.shortest))
        elif self.size is not None:
            rgb = resize(rgb, *self.size, self.resample)
        if self.crop is not None:
            rgb = center_crop(rgb, *self.crop)
        return np.ascontiguousarray(self.normalize(rgb).transpose(2, 0, 1))

    def _by_shortest(self, rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """At `size`; of what would be huge, the middle that the crop keeps."""
        height, width = size
        if self.crop is None or height * width <= _HUGE or self.crop[0] > height or self.crop[1] > width:
            return resize(rgb, height, width, self.resample)
        corner = ((height - self.crop[0]) // 2, (width - self.crop[1]) // 2)
        return resize_part(rgb, size, corner, self.crop, self.resample)


def shortest_edge(height: int, width: int, edge: int) -> tuple[int, int]:
    """The size whose shorter side is `edge`, in the proportions given, rounded down."""
    if height <= width:
        return edge, int(edge * width / height)
    return int(edge * height / width), edge
