"""RMS and layer normalization over the last axis: statistics and result in float32, rounded once."""

from __future__ import annotations

import mlx.core as mx


def _result_dtype(x: mx.array, *parameters: mx.array | None) -> mx.Dtype:
    dtype = x.dtype
    for parameter in parameters:
        if parameter is not None:
            dtype = mx.result_type(dtype, parameter.dtype)
    return dtype


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    wide = wide * mx.rsqrt(mx.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if weight is not None:
        wide = wide * weight.astype(mx.float32)
    return wide.astype(_result_dtype(x, weight))


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    centred = wide - mx.mean(wide, axis=-1, keepdims=True)
    wide = centred * mx.rsqrt(mx.mean(centred * centred, axis=-1, keepdims=True) + eps)
    if weight is not None:
        wide = wide * weight.astype(mx.float32)
    if bias is not None:
        wide = wide + bias.astype(mx.float32)
    return wide.astype(_result_dtype(x, weight, bias))
