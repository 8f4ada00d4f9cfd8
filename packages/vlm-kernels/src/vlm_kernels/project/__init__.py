"""Several linear layers of the same few rows, with what stands before and after them: the fused pieces of decoding."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from vlm_kernels.dispatch import Op
from vlm_kernels.errors import KernelError
from vlm_kernels.project import cpu, reference
from vlm_kernels.project.layer import Projection
from vlm_kernels.quantized_matmul.formats import check_weights

__all__ = ["Projection", "project"]

_GATES = ("", "swiglu", "geglu_tanh", "geglu_exact")
_MOST = 4
_project = Op("project", reference.project, native=cpu.project)


def project(
    x: mx.array,
    layers: Sequence[Projection],
    *,
    norm_weight: mx.array | None = None,
    eps: float = 0.0,
    gate: str = "",
    residual: mx.array | None = None,
) -> tuple[mx.array, ...]:
    """One to four linear layers of x; with `gate` or `residual` one result, else one for each layer.

    It computes what `rms_norm`, `linear` or `quantized_matmul`, `swiglu` or `geglu` and `+` compute one after another, in one
    hand-over on a CPU; elsewhere it is those ops.

    Args:
        x: [..., K].
        layers: dense or packed, each [N, K].
        norm_weight: [K], of an RMS norm of x that comes first, or None.
        eps: of that norm.
        gate: "", or `swiglu`, `geglu_tanh`, `geglu_exact`: the activation of the first of two layers times the second.
        residual: [..., N] added to the one layer's result, or None.

    Raises:
        KernelError: another gate, or counts and shapes that do not fit.
    """
    if gate not in _GATES or not 1 <= len(layers) <= _MOST or (gate and len(layers) != 2):
        raise KernelError(
            f"project: expected 1 to {_MOST} layers, 2 with a gate of {', '.join(_GATES[1:])}; "
            f"got {len(layers)} and {gate!r}"
        )
    rows = [_check(x, layer) for layer in layers]
    if gate and rows[0] != rows[1]:
        raise KernelError(f"project: expected gate and up of one size; got {rows[0]} and {rows[1]}")
    if norm_weight is not None and norm_weight.shape != x.shape[-1:]:
        raise KernelError(f"project: expected a norm weight {x.shape[-1:]}; got {norm_weight.shape}")
    if residual is not None and (gate or len(layers) != 1 or residual.shape != (*x.shape[:-1], rows[0])):
        raise KernelError(
            f"project: expected a residual {(*x.shape[:-1], rows[0])} of one layer; got {residual.shape}, "
            f"{len(layers)} layers"
        )
    return _project(x, layers, norm_weight=norm_weight, eps=eps, gate=gate, residual=residual)


def _check(x: mx.array, layer: Projection) -> int:
    weight = layer.weight
    if layer.scales is None:
        rows, columns = weight.shape if weight.ndim == 2 else (0, -1)
    else:
        rows, columns = check_weights(
            "project", weight, layer.scales, layer.biases, layer.group_size, layer.bits, layer.mode
        )
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != columns:
        raise KernelError(f"project: expected x [..., K] and weights [N, K]; got {x.shape} and {weight.shape}")
    if layer.bias is not None and layer.bias.shape != (rows,):
        raise KernelError(f"project: expected a bias [{rows}]; got {layer.bias.shape}")
    return int(rows)
