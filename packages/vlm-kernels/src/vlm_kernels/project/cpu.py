"""Several linear layers at once by the native library."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.project import reference
from vlm_kernels.project.layer import Projection


def _serves(x: mx.array, layers: Sequence[Projection], *others: mx.array | None) -> bool:
    floating = [x, *(array for array in others if array is not None)]
    for layer in layers:
        scales = layer.weight if layer.scales is None else layer.scales
        floating += [array for array in (scales, layer.biases, layer.bias) if array is not None]
    # Block scales of the floating-point formats are bytes.
    return all(native.serves(array) for array in floating if array.dtype != mx.uint8) and x.size > 0


def project(
    x: mx.array,
    layers: Sequence[Projection],
    *,
    norm_weight: mx.array | None = None,
    eps: float = 0.0,
    gate: str = "",
    residual: mx.array | None = None,
) -> tuple[mx.array, ...]:
    if not _serves(x, layers, norm_weight, residual):
        return reference.project(x, layers, norm_weight=norm_weight, eps=eps, gate=gate, residual=residual)
    return tuple(native.call("project", x, layers, norm_weight, eps, gate, residual))
