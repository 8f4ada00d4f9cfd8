"""Normalisation layers. Statistics are taken in float32 whatever the input's type."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import layer_norm, rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * (weight + offset). offset 1 is Gemma's: the checkpoint stores weight - 1."""

    def __init__(self, dim: int, eps: float, *, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = mx.ones((dim,))
        self.eps = eps
        self.offset = offset

    def __call__(self, x: mx.array) -> mx.array:
        if self.offset:
            # the sum is taken in float32 as the reference does: bf16 weights near 0 would lose bits next to 1
            weight = self.weight.astype(mx.float32) + self.offset
            return rms_norm(x.astype(mx.float32), weight, self.eps).astype(x.dtype)
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight + bias."""

    def __init__(self, dim: int, eps: float = 1e-5, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.ones((dim,))
        if bias:
            self.bias = mx.zeros((dim,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return layer_norm(x, self.weight, self.get("bias"), self.eps)
