"""Cases of `linear` and `matmul`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from vlm_kernels.testing import Case, random

_DTYPES = (mx.float32, mx.float16, mx.bfloat16)
# leading axes of x, K, N
_LINEAR = (
    ((1,), 64, 32),
    ((2, 3), 96, 40),
    ((5,), 33, 17),
    ((0,), 8, 8),
    ((1, 1), 1, 1),
    ((37,), 130, 65),
    ((2, 16), 256, 200),
)


def _linear(lead: tuple[int, ...], k: int, n: int, dtype: mx.Dtype, biased: bool) -> Case:
    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        bias = random((n,), dtype, seed=2) if biased else None
        return (random((*lead, k), dtype), random((n, k), dtype, seed=1, scale=k**-0.5), bias), {}

    return Case(f"linear-{lead}-{k}-{n}-{dtype}-{'bias' if biased else 'plain'}", build)


def _matmul(a: tuple[int, ...], b: tuple[int, ...], dtype: mx.Dtype) -> Case:
    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (random(a, dtype), random(b, dtype, seed=1, scale=b[-2] ** -0.5)), {}

    return Case(f"matmul-{a}-{b}-{dtype}", build)


LINEAR = tuple(
    _linear(lead, k, n, dtype, biased) for lead, k, n in _LINEAR for dtype in _DTYPES for biased in (False, True)
)
MATMUL = tuple(
    _matmul(a, b, dtype)
    for a, b in (((4, 8), (8, 6)), ((2, 3, 5, 33), (2, 3, 33, 7)), ((2, 1, 5, 16), (3, 16, 9)), ((1, 70, 64), (64, 50)))
    for dtype in _DTYPES
)
