"""Resizing of feature maps as matrices along rows and columns, as torch's interpolate computes it (align_corners false)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


def bilinear_matrix(have: int, want: int) -> np.ndarray:
    """float32 [want, have]: weights of the two nearest of `have` samples for each of `want`; no smoothing when shrinking."""
    at = np.maximum((np.arange(want, dtype=np.float64) + 0.5) * have / want - 0.5, 0)
    low = np.minimum(np.floor(at).astype(int), have - 1)
    high = np.minimum(low + 1, have - 1)
    part = at - low
    matrix = np.zeros((want, have))
    rows = np.arange(want)
    np.add.at(matrix, (rows, low), 1 - part)
    np.add.at(matrix, (rows, high), part)
    return matrix.astype(np.float32)


def resample_bilinear(x: mx.array, rows: int, columns: int) -> mx.array:
    """[n, H, W, D] -> [n, rows, columns, D]."""
    n, height, width, dim = x.shape
    down = mx.array(bilinear_matrix(height, rows)).astype(x.dtype)
    across = mx.array(bilinear_matrix(width, columns)).astype(x.dtype)
    x = (down @ x.reshape(n, height, width * dim)).reshape(n * rows, width, dim)
    return (across @ x).reshape(n, rows, columns, dim)
