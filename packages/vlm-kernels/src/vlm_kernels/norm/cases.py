"""Cases of `rms_norm` and `layer_norm`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from vlm_kernels.testing import Case, random

_SHAPES = ((1, 1, 64), (2, 5, 96), (3, 130), (2, 0, 32), (7, 1), (1, 2048))


def _rms(shape: tuple[int, ...], dtype: mx.Dtype, weighted: bool) -> Case:
    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        weight = random((shape[-1],), dtype, seed=1) if weighted else None
        return (random(shape, dtype), weight, 1e-6), {}

    return Case(f"rms_norm-{shape}-{dtype}-{'weight' if weighted else 'bare'}", build)


def _layer(shape: tuple[int, ...], dtype: mx.Dtype, weighted: bool, biased: bool) -> Case:
    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        weight = random((shape[-1],), dtype, seed=1) if weighted else None
        bias = random((shape[-1],), dtype, seed=2) if biased else None
        return (random(shape, dtype) + 3, weight, bias, 1e-5), {}

    return Case(f"layer_norm-{shape}-{dtype}-{weighted}-{biased}", build)


_DTYPES = (mx.float32, mx.float16, mx.bfloat16)
RMS_NORM = tuple(_rms(s, d, w) for s in _SHAPES for d in _DTYPES for w in (True, False))
LAYER_NORM = tuple(
    _layer(s, d, w, b) for s in _SHAPES for d in _DTYPES for w, b in ((True, True), (True, False), (False, False))
)
