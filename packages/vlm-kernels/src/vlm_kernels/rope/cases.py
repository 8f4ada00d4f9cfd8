"""Cases of `rope`: head sizes, partial rotation, one table for all rows and one for each."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from vlm_kernels.testing import Case, random


def _tables(rows: int, length: int, half: int) -> tuple[mx.array, mx.array]:
    start = np.arange(rows)[:, None] * 11
    angles = (np.arange(length)[None] + start)[..., None] * (10000.0 ** (-np.arange(half) / half))
    return mx.array(np.cos(angles).astype(np.float32)), mx.array(np.sin(angles).astype(np.float32))


def _case(shape: tuple[int, int, int, int], half: int, rows: int, interleaved: bool, dtype: mx.Dtype) -> Case:
    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (random(shape, dtype), *_tables(rows, shape[2], half)), {"interleaved": interleaved}

    return Case(f"rope-{shape}-{half}-{rows}-{'interleaved' if interleaved else 'halves'}-{dtype}", build)


ROPE = tuple(
    _case(shape, half, rows, interleaved, dtype)
    for shape, half, rows in (
        ((1, 4, 7, 64), 32, 1),
        ((2, 3, 5, 80), 40, 2),
        ((2, 2, 1, 96), 16, 1),
        ((1, 1, 3, 18), 9, 1),
        ((1, 2, 0, 8), 4, 1),
    )
    for interleaved in (False, True)
    for dtype in (mx.float32, mx.float16, mx.bfloat16)
)
