"""Pictures cut into flat patches, for towers whose patch convolution is a matrix (rule `Flatten`)."""

from __future__ import annotations

import math

import mlx.core as mx

from ..errors import ModelError


def cut_patches(pixels: mx.array, patch: int) -> mx.array:
    """[n, C, H, W] -> [n, H // patch * W // patch, C * patch * patch], row by row. Rests at the right and bottom fall away,
    as they do in a convolution. Raises ModelError for a picture smaller than a patch."""
    n, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    if rows == 0 or columns == 0:
        raise ModelError(f"a picture of {height}x{width} is smaller than one patch of {patch}x{patch}")
    whole = pixels[:, :, : rows * patch, : columns * patch]
    cells = whole.reshape(n, channels, rows, patch, columns, patch).transpose(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, rows * columns, channels * patch * patch)


def join_blocks(patches: mx.array, scale: int) -> mx.array:
    """A square map's blocks of scale x scale patches as one token each, rows of a block outermost (pixel shuffle).

    [n, side * side, dim] -> [n, (side / scale)^2, scale * scale * dim]. Raises ModelError where `scale` does not divide."""
    n, count, dim = patches.shape
    side = math.isqrt(count)
    if side * side != count or side % scale:
        raise ModelError(f"{count} patches are no square map of blocks of {scale}x{scale}")
    cells = side // scale
    blocks = patches.reshape(n, cells, scale, cells, scale, dim).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, cells * cells, scale * scale * dim)
