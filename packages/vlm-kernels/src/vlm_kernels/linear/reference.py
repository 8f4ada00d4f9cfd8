"""Dense products accumulated in float32 and rounded once to the common dtype of the factors."""

from __future__ import annotations

import mlx.core as mx


def linear(x: mx.array, w: mx.array, bias: mx.array | None = None) -> mx.array:
    dtype = mx.result_type(x.dtype, w.dtype)
    result = x.astype(mx.float32) @ w.astype(mx.float32).T
    if bias is not None:
        dtype = mx.result_type(dtype, bias.dtype)
        result = result + bias.astype(mx.float32)
    return result.astype(dtype)


def matmul(a: mx.array, b: mx.array) -> mx.array:
    return (a.astype(mx.float32) @ b.astype(mx.float32)).astype(mx.result_type(a.dtype, b.dtype))
