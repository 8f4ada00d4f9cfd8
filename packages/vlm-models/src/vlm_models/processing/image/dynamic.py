"""Images and frames at their own size, cut into flat patches: the strategy of Qwen2-VL and its kin (arXiv:2409.12191)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import ProcessingError
from ..base import MediaOptions, pick
from .pixels import BICUBIC, CLIP_MEAN, CLIP_STD, Normalize, resize

MAX_RATIO = 200
CLIP_NORMALIZE = Normalize(mean=CLIP_MEAN, std=CLIP_STD)


def fit_area(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size nearest to (height, width) whose sides are multiples of `factor` and whose area lies within the limits.

    Raises ProcessingError for sides that differ by more than 200 times."""
    if max(height, width) > MAX_RATIO * min(height, width):
        raise ProcessingError(
            f"an image of {height}x{width} is too long: sides may differ by {MAX_RATIO} times at most"
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def fit_volume(
    num_frames: int, height: int, width: int, factor: int, group: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """As `fit_area`, but the limits hold for all frames together, counted in whole groups (GLM-4V, Qwen3-VL), and sides
    shorter than `factor` are enlarged first. Raises ProcessingError for sides that differ by more than 200 times."""
    if height < factor or width < factor:
        grow = max(factor / height, factor / width)
        height, width = int(height * grow), int(width * grow)
    if max(height, width) > MAX_RATIO * min(height, width):
        raise ProcessingError(
            f"a picture of {height}x{width} is too long: sides may differ by {MAX_RATIO} times at most"
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    volume = max(round(num_frames / group), 1) * group * rows * columns
    if volume > max_pixels:
        shrink = math.sqrt(num_frames * height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif volume < min_pixels:
        grow = math.sqrt(min_pixels / (num_frames * height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


@dataclass(frozen=True)
class PatchStrategy:
    """patch, merge, frames: pixels per patch side, patches per token side, frames per patch. Areas in pixels."""

    patch: int = 14
    merge: int = 2
    frames: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    resample: int = BICUBIC
    normalize: Normalize = CLIP_NORMALIZE

    @classmethod
    def from_files(cls, files: Mapping[str, Any], default: PatchStrategy) -> PatchStrategy:
        """From preprocessor_config.json. Limits come as min_pixels/max_pixels or as size.shortest_edge/longest_edge (areas)."""
        size = pick(files, "size", {})
        low = pick(files, "min_pixels", pick(size, "shortest_edge", pick(size, "min_pixels", default.min_pixels)))
        high = pick(files, "max_pixels", pick(size, "longest_edge", pick(size, "max_pixels", default.max_pixels)))
        mean, std = default.normalize.mean or (), default.normalize.std or ()
        return cls(
            int(pick(files, "patch_size", default.patch)),
            int(pick(files, "merge_size", default.merge)),
            int(pick(files, "temporal_patch_size", default.frames)),
            int(low),
            int(high),
            int(pick(files, "resample", default.resample)),
            Normalize.from_files(files, mean, std),
        )

    def size(self, height: int, width: int, options: MediaOptions, num_frames: int = 1) -> tuple[int, int]:
        """Height and width after resizing. num_frames: of a video, whose every frame has the limits of a picture here."""
        if options.resize_shape is not None:
            height, width = options.resize_shape
        low, high = options.area_limits(self.min_pixels, self.max_pixels)
        return fit_area(height, width, self.patch * self.merge, low, high)

    def __call__(self, frames: np.ndarray, height: int, width: int) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Resize and cut. frames: uint8 [T, H, W, 3]; a missing last frame repeats.

        Returns patches float32 [t * h * w, 3 * frames * patch * patch] in merge order, and the grid (t, h, w)."""
        pixels = self.normalize(np.stack([resize(frame, height, width, self.resample) for frame in frames]))
        return self.cut(pixels)

    def cut(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """pixels: float32 [T, H, W, 3] -> patches and grid."""
        missing = -len(pixels) % self.frames
        if missing:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
        count, height, width, channels = pixels.shape
        t, h, w = count // self.frames, height // self.patch, width // self.patch
        blocks = pixels.reshape(
            t, self.frames, h // self.merge, self.merge, self.patch, w // self.merge, self.merge, self.patch, channels
        )
        # axes: t, frame, h block, h in block, y, w block, w in block, x, channel
        ordered = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
        flat = ordered.reshape(t * h * w, channels * self.frames * self.patch * self.patch)
        return np.ascontiguousarray(flat), (t, h, w)


@dataclass(frozen=True)
class VolumeStrategy(PatchStrategy):
    """Limits of area hold for all frames of a video together; a picture counts as one group of frames."""

    def size(self, height: int, width: int, options: MediaOptions, num_frames: int = 1) -> tuple[int, int]:
        if options.resize_shape is not None:
            height, width = options.resize_shape
        count = max(num_frames, self.frames)
        own = replace(
            options,  # a caller's limits are those of one frame
            min_pixels=None if options.min_pixels is None else options.min_pixels * count,
            max_pixels=None if options.max_pixels is None else options.max_pixels * count,
        )
        low, high = own.area_limits(self.min_pixels, self.max_pixels)
        return fit_volume(count, height, width, self.patch * self.merge, self.frames, low, high)


@dataclass(frozen=True)
class RasterStrategy(PatchStrategy):
    """Patches of one frame each stand row by row; a side shorter than a token is enlarged first (PaddleOCR-VL)."""

    def size(self, height: int, width: int, options: MediaOptions, num_frames: int = 1) -> tuple[int, int]:
        if options.resize_shape is not None:
            height, width = options.resize_shape
        factor = self.patch * self.merge
        if height < factor:
            height, width = factor, round(width * factor / height)
        if width < factor:
            height, width = round(height * factor / width), factor
        return fit_area(height, width, factor, *options.area_limits(self.min_pixels, self.max_pixels))

    def cut(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """pixels: float32 [1, H, W, 3] -> patches [h * w, 3 * patch * patch] and grid."""
        _, height, width, channels = pixels.shape
        h, w = height // self.patch, width // self.patch
        cells = pixels.reshape(h, self.patch, w, self.patch, channels).transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(cells.reshape(h * w, -1)), (1, h, w)
