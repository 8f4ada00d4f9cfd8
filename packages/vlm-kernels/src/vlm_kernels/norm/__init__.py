"""RMS and layer normalization."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels.dispatch import Op
from vlm_kernels.norm import cpu, reference

_rms_norm = Op("rms_norm", reference.rms_norm, mlx=mx.fast.rms_norm, native=cpu.rms_norm)
_layer_norm = Op("layer_norm", reference.layer_norm, mlx=mx.fast.layer_norm, native=cpu.layer_norm)


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, in float32, rounded once.

    Args:
        x: [..., D].
        weight: [D] or None. Gemma's `1 + w` is the caller's to fold.
        eps: added to the mean square.
    """
    return _rms_norm(x, weight, eps)


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> mx.array:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis, in float32, rounded once.

    Args:
        x: [..., D].
        weight: [D] or None.
        bias: [D] or None.
        eps: added to the variance.
    """
    return _layer_norm(x, weight, bias, eps)
