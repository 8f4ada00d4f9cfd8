"""Cases of `swiglu` and `geglu`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from vlm_kernels.testing import Case, random


def _case(shape: tuple[int, ...], dtype: mx.Dtype, options: dict[str, Any]) -> Case:
    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (random(shape, dtype, scale=3.0), random(shape, dtype, seed=1)), options

    return Case(f"{shape}-{dtype}-{options.get('approximate', '')}", build)


_GRID = tuple((s, d) for s in ((1, 64), (3, 5, 33), (0, 8), (1,)) for d in (mx.float32, mx.float16, mx.bfloat16))
SWIGLU = tuple(_case(shape, dtype, {}) for shape, dtype in _GRID)
GEGLU = tuple(_case(shape, dtype, {"approximate": kind}) for shape, dtype in _GRID for kind in ("tanh", "exact"))
