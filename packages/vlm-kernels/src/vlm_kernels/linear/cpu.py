"""Dense products by the native library."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.linear import reference


def linear(x: mx.array, w: mx.array, bias: mx.array | None = None) -> mx.array:
    if not native.serves(x, w):
        return reference.linear(x, w, bias)
    return native.call("linear", x, w, bias)


def matmul(a: mx.array, b: mx.array) -> mx.array:
    if not native.serves(a, b):
        return reference.matmul(a, b)
    return native.call("matmul", a, b)
