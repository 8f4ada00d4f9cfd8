"""Pictures between two edges, whole or in quarters (Idefics2); pictures cut into tiles with the whole one last (Idefics3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import pick
from .pixels import BILINEAR, HALF_MEAN, HALF_STD, LANCZOS, Normalize, resize

MAX_SIDE = 4096


def _edge(files: Mapping[str, Any], key: str, name: str, default: int) -> int:
    """files[key][name]. Raises ProcessingError for another kind of size."""
    given = pick(files, key, {name: default})
    if not isinstance(given, Mapping) or not given.get(name):
        raise ProcessingError(f"preprocessor: {key} {given!r} is not supported ({name} expected)")
    return int(given[name])


def _channels_first(rgb: np.ndarray, normalize: Normalize) -> np.ndarray:
    return np.ascontiguousarray(normalize(rgb).transpose(2, 0, 1))


@dataclass(frozen=True)
class QuartersStrategy:
    """Sides stay between shortest and longest; with `split` a picture is its four quarters and the whole."""

    shortest: int
    longest: int
    split: bool
    resample: int
    normalize: Normalize

    @classmethod
    def from_files(cls, files: Mapping[str, Any]) -> QuartersStrategy:
        """From preprocessor_config.json; absent keys as Idefics2 has them. Raises ProcessingError."""
        return cls(
            _edge(files, "size", "shortest_edge", 378),
            _edge(files, "size", "longest_edge", 980),
            bool(pick(files, "do_image_splitting", False)),
            int(pick(files, "resample", BILINEAR)),
            Normalize.from_files(files, HALF_MEAN, HALF_STD),
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        ratio = width / height
        if width >= height and width > self.longest:
            height, width = int(self.longest / ratio), self.longest
        elif height > width and height > self.longest:
            height, width = self.longest, int(self.longest * ratio)
        return max(height, self.shortest), max(width, self.shortest)

    def __call__(self, rgb: np.ndarray) -> list[np.ndarray]:
        """uint8 [H, W, 3] -> float32 [3, h, w] each."""
        parts = [rgb]
        if self.split:
            y, x = rgb.shape[0] // 2, rgb.shape[1] // 2
            parts = [rgb[:y, :x], rgb[:y, x:], rgb[y:, :x], rgb[y:, x:], rgb]
            if y == 0:
                raise ProcessingError(f"a picture of {rgb.shape[0]}x{rgb.shape[1]} cannot be split into quarters")
        return [_channels_first(self._resized(part), self.normalize) for part in parts]

    def _resized(self, part: np.ndarray) -> np.ndarray:
        size = self.size(part.shape[0], part.shape[1])
        # the left quarters of a picture one pixel wide have no width, and are black
        return np.zeros((*size, 3), np.uint8) if part.shape[1] == 0 else resize(part, *size, self.resample)


@dataclass(frozen=True)
class SplitStrategy:
    """The longest edge becomes `longest`, both sides are filled up to multiples of `tile`, tiles are cut row by row."""

    longest: int
    tile: int
    split: bool
    resample: int
    normalize: Normalize

    @classmethod
    def from_files(cls, files: Mapping[str, Any], tile: int) -> SplitStrategy:
        """From preprocessor_config.json; absent keys as Idefics3 has them. Raises ProcessingError."""
        return cls(
            _edge(files, "size", "longest_edge", 4 * tile),
            _edge(files, "max_image_size", "longest_edge", tile),
            bool(pick(files, "do_image_splitting", True)),
            int(pick(files, "resample", LANCZOS)),
            Normalize.from_files(files, HALF_MEAN, HALF_STD),
        )

    def first_size(self, height: int, width: int) -> tuple[int, int]:
        """With the longest edge at its limit, the other one even."""
        longest = self.longest
        ratio = width / height
        if width >= height:
            height, width = int(longest / ratio), longest
            height += height % 2
        else:
            height, width = longest, int(longest * ratio)
            width += width % 2
        height, width = max(height, 1), max(width, 1)
        ratio = width / height
        if width >= height and width > MAX_SIDE:
            height, width = int(MAX_SIDE / ratio), MAX_SIDE
        elif height > width and height > MAX_SIDE:
            height, width = MAX_SIDE, int(MAX_SIDE * ratio)
        return max(height, 1), max(width, 1)

    def tiled_size(self, height: int, width: int) -> tuple[int, int]:
        """From the first size to whole tiles."""
        ratio = width / height
        if width >= height:
            width = math.ceil(width / self.tile) * self.tile
            height = math.ceil(int(width / ratio) / self.tile) * self.tile
        else:
            height = math.ceil(height / self.tile) * self.tile
            width = math.ceil(int(height * ratio) / self.tile) * self.tile
        if not height or not width:
            raise ProcessingError("a picture this long and thin has no pixels left; crop it")
        return height, width

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles; (0, 0) where the picture is one tile."""
        if not self.split:
            return 0, 0
        height, width = self.tiled_size(*self.first_size(height, width))
        rows, columns = height // self.tile, width // self.tile
        return (0, 0) if rows * columns == 1 else (rows, columns)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [tiles + 1, 3, tile, tile], or [1, 3, tile, tile]."""
        tile, shape = self.tile, (rgb.shape[0], rgb.shape[1])
        rgb = resize(rgb, *self.first_size(*shape), self.resample)
        if not self.split:
            return _channels_first(resize(rgb, tile, tile, self.resample), self.normalize)[None]
        rows, columns = self.grid(*shape)
        rgb = resize(rgb, *self.tiled_size(*rgb.shape[:2]), self.resample)
        cells = rgb.reshape(max(rows, 1), tile, max(columns, 1), tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
        parts = list(cells) if rows == 0 else [*cells, resize(rgb, tile, tile, self.resample)]
        return np.stack([_channels_first(part, self.normalize) for part in parts])
