"""The ops one after another: what `project` computes, with the rounding of each."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from vlm_kernels.gated_activation import geglu, swiglu
from vlm_kernels.linear import linear
from vlm_kernels.norm import rms_norm
from vlm_kernels.project.layer import Projection
from vlm_kernels.quantized_matmul import quantized_matmul


def apply(x: mx.array, layer: Projection) -> mx.array:
    if layer.scales is None:
        return linear(x, layer.weight, layer.bias)
    y = quantized_matmul(
        x,
        layer.weight,
        layer.scales,
        layer.biases,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )
    return y if layer.bias is None else y + layer.bias


def project(
    x: mx.array,
    layers: Sequence[Projection],
    *,
    norm_weight: mx.array | None = None,
    eps: float = 0.0,
    gate: str = "",
    residual: mx.array | None = None,
) -> tuple[mx.array, ...]:
    if norm_weight is not None:
        x = rms_norm(x, norm_weight, eps)
    results = tuple(apply(x, layer) for layer in layers)
    if gate == "swiglu":
        return (swiglu(results[0], results[1]),)
    if gate:
        return (geglu(results[0], results[1], approximate=gate.removeprefix("geglu_")),)
    return results if residual is None else (results[0] + residual,)
