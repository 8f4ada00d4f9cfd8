"""Cases of `attention` and `block_attention`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from vlm_kernels.testing import Case, random

_DTYPES = (mx.float32, mx.float16, mx.bfloat16)
# batch, heads, key heads, queries, keys, head size, value head size
_SHAPES = (
    (1, 4, 2, 5, 5, 64, 64),
    (2, 6, 2, 3, 37, 80, 80),
    (1, 2, 2, 1, 130, 128, 128),
    (1, 8, 1, 9, 21, 96, 64),
    (2, 3, 3, 17, 17, 33, 17),
    (1, 4, 4, 70, 70, 256, 256),
    (1, 2, 1, 1, 1, 64, 64),
)


def _mask(kind: str, shape: tuple[int, ...], dtype: mx.Dtype) -> str | mx.array | None:
    batch, _, _, length, keys, _, _ = shape
    if kind == "none":
        return None
    if kind == "causal":
        return "causal"
    visible = np.random.default_rng(5).random((batch, 1, length, keys)) < 0.7
    visible[..., 0] = True
    if kind == "bool":
        return mx.array(visible)
    if kind == "additive":
        return mx.array(np.where(visible, 0.5, -np.inf).astype(np.float32)).astype(dtype)
    return mx.array(visible[:1, 0, :1])  # one row for all queries


def _case(shape: tuple[int, ...], dtype: mx.Dtype, kind: str, options: dict[str, Any]) -> Case:
    batch, heads, key_heads, length, keys, size, value_size = shape

    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        q = random((batch, heads, length, size), dtype)
        k = random((batch, key_heads, keys, size), dtype, seed=1)
        v = random((batch, key_heads, keys, value_size), dtype, seed=2)
        extra = dict(options)
        if extra.pop("sinks", False):
            extra["sinks"] = random((heads,), dtype, seed=3)
        return (q, k, v), {"scale": size**-0.5, "mask": _mask(kind, shape, dtype), **extra}

    return Case(f"attention-{shape}-{dtype}-{kind}-{options}", build)


ATTENTION = tuple(
    _case(shape, dtype, kind, options)
    for shape in _SHAPES
    for dtype in _DTYPES
    for kind, options in (
        ("none", {}),
        ("causal", {}),
        ("bool", {}),
        ("additive", {}),
        ("row", {}),
        ("causal", {"sinks": True}),
        ("causal", {"softcap": 5.0}),
    )
)


def _block_case(segments: tuple[int, ...], heads: int, key_heads: int, size: int, dtype: mx.Dtype) -> Case:
    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        length = sum(segments)
        q = random((1, heads, length, size), dtype)
        k = random((1, key_heads, length, size), dtype, seed=1)
        v = random((1, key_heads, length, size), dtype, seed=2)
        return (q, k, v), {"scale": size**-0.5, "segments": segments}

    return Case(f"block_attention-{segments}-{heads}-{key_heads}-{size}-{dtype}", build)


BLOCK_ATTENTION = tuple(
    _block_case(segments, heads, key_heads, size, dtype)
    for segments, heads, key_heads, size in (((4, 4, 4), 2, 2, 64), ((1, 7, 16, 3), 4, 2, 80), ((33,), 2, 2, 72))
    for dtype in _DTYPES
)
