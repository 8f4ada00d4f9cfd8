"""Normalizations by the native library."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.norm import reference


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    if not native.serves(x, *(() if weight is None else (weight,))):
        return reference.rms_norm(x, weight, eps)
    return native.call("rms_norm", x, weight, eps)


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> mx.array:
    if not native.serves(x, *(p for p in (weight, bias) if p is not None)):
        return reference.layer_norm(x, weight, bias, eps)
    return native.call("layer_norm", x, weight, bias, eps)
