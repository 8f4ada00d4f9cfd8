"""Resizing of feature maps and position tables as matrices along rows and columns, as torch's interpolate computes it."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx
import numpy as np

Filter = Literal["linear", "cubic"]

# the sharpness torch gives Keys' cubic kernel, and that with antialias
_KEYS, _SMOOTH_KEYS = -0.75, -0.5


def resample_matrix(size: int, side: int, filter: Filter, *, corners: bool = False) -> np.ndarray:
    """float32 [size, side]: row i holds the weights of the `side` samples in target sample i; no smoothing when shrinking.

    corners: first and last samples coincide; else cells cover the same length (half-pixel centres). Taps beyond the edge take
    the edge.
    """
    at = np.arange(size, dtype=np.float32)
    if corners:
        source = at * np.float32(side - 1) / np.float32(max(size - 1, 1))
    else:
        source = (at + np.float32(0.5)) * np.float32(side) / np.float32(size) - np.float32(0.5)
    floor = np.floor(source)
    matrix = np.zeros((size, side), np.float32)
    for offset in (0, 1) if filter == "linear" else (-1, 0, 1, 2):
        distance = np.abs(source - floor - offset)
        weights = np.maximum(1 - distance, 0) if filter == "linear" else _cubic(distance)
        np.add.at(matrix, (np.arange(size), np.clip(floor.astype(int) + offset, 0, side - 1)), weights)
    return matrix


def _cubic(distance: np.ndarray, sharpness: float = _KEYS) -> np.ndarray:
    """Keys' kernel at distances of any size."""
    a = sharpness
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def smooth_matrix(size: int, side: int) -> np.ndarray:
    """As `resample_matrix` with the cubic filter, which grows with the step when shrinking (antialias)."""
    step = side / size
    reach = max(step, 1.0)
    matrix = np.zeros((size, side))
    for index in range(size):
        centre = (index + 0.5) * step
        first = max(int(centre - 2 * reach + 0.5), 0)
        last = min(int(centre + 2 * reach + 0.5), side)
        weights = _cubic(np.abs((np.arange(first, last) - centre + 0.5) / reach), _SMOOTH_KEYS)
        matrix[index, first:last] = weights / weights.sum()
    return matrix.astype(np.float32)


def resample_smooth(x: mx.array, rows: int, columns: int) -> mx.array:
    """[n, H, W, D] -> float32 [n, rows, columns, D], cubic with antialias."""
    down, across = mx.array(smooth_matrix(rows, x.shape[1])), mx.array(smooth_matrix(columns, x.shape[2]))
    return _along(x.astype(mx.float32), down, across)


def resample_bilinear(x: mx.array, rows: int, columns: int) -> mx.array:
    """[n, H, W, D] -> [n, rows, columns, D] in x's type."""
    down = mx.array(resample_matrix(rows, x.shape[1], "linear")).astype(x.dtype)
    across = mx.array(resample_matrix(columns, x.shape[2], "linear")).astype(x.dtype)
    return _along(x, down, across)


def resample_table(table: mx.array, height: int, width: int, filter: Filter, *, corners: bool = False) -> mx.array:
    """A square table [side * side, dim] -> float32 [height, width, dim]."""
    num, dim = table.shape
    side = int(num**0.5)
    down = mx.array(resample_matrix(height, side, filter, corners=corners))
    across = mx.array(resample_matrix(width, side, filter, corners=corners))
    return _along(table.astype(mx.float32).reshape(1, side, side, dim), down, across)[0]


def _along(x: mx.array, down: mx.array, across: mx.array) -> mx.array:
    n, height, width, dim = x.shape
    x = (down @ x.reshape(n, height, width * dim)).reshape(n * down.shape[0], width, dim)
    return (across @ x).reshape(n, down.shape[0], across.shape[0], dim)


def area_matrix(have: int, want: int) -> np.ndarray:
    """float32 [want, have]: means over stretches from floor(i * have / want) to ceil((i + 1) * have / want)."""
    matrix = np.zeros((want, have), np.float32)
    for index in range(want):
        start, stop = index * have // want, -(-(index + 1) * have // want)
        matrix[index, start:stop] = 1 / (stop - start)
    return matrix


def resample_area(x: mx.array, rows: int, columns: int) -> mx.array:
    """[n, H, W, D] -> [n, rows, columns, D], each cell a mean."""
    down = mx.array(area_matrix(x.shape[1], rows)).astype(x.dtype)
    return _along(x, down, mx.array(area_matrix(x.shape[2], columns)).astype(x.dtype))
