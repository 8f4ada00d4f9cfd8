"""A picture's tiles as one map of features, each row closed by a newline (LLaVA-NeXT, LLaVA-OneVision)."""

from __future__ import annotations

import math

import mlx.core as mx

from ..core.inputs import MediaItem
from ..layers.resample import resample_bilinear


def join_tiles(features: mx.array, grid: tuple[int, ...]) -> mx.array:
    """[rows * columns, side * side, D] of a grid of square tiles -> [rows * side, columns * side, D]."""
    rows, columns = grid
    side = math.isqrt(features.shape[1])
    cells = features.reshape(rows, columns, side, side, -1).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * side, columns * side, -1)


def with_newlines(features: mx.array, newline: mx.array) -> mx.array:
    """[rows, columns, D] -> [rows * (columns + 1), D]: a newline after every row."""
    rows, _, dim = features.shape
    ends = mx.broadcast_to(newline.astype(features.dtype), (rows, 1, dim))
    return mx.concatenate([features, ends], axis=1).reshape(-1, dim)


def pack_tiles(features: mx.array, item: MediaItem, newline: mx.array) -> mx.array:
    """The thumbnail's features, then the map of the tiles: cut to the picture, resized if it is too large, with newlines.

    features: [1 + tiles, side * side, D]. item: with the grid of tiles and the facts `margin` (rows, columns of the map to
    cut off on both sides) and `map` (rows, columns that remain in the end), as `TiledPictures` gives them."""
    if features.shape[0] == 1:
        return mx.concatenate([features[0], newline[None].astype(features.dtype)])
    whole = join_tiles(features[1:], item.grid)
    (top, left), (rows, columns) = item.facts["margin"], item.facts["map"]
    cut = whole[top : whole.shape[0] - top, left : whole.shape[1] - left]
    if cut.shape[:2] != (rows, columns):
        cut = resample_bilinear(cut[None], rows, columns)[0]
    return mx.concatenate([features[0], with_newlines(cut, newline)])
