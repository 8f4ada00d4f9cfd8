"""Activations of gated feed-forward layers, fused with the product."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels.dispatch import Op
from vlm_kernels.errors import KernelError
from vlm_kernels.gated_activation import cpu, reference

_swiglu = Op("swiglu", reference.swiglu, native=cpu.swiglu)
_geglu = Op("geglu", reference.geglu, native=cpu.geglu)


def _check(name: str, gate: mx.array, up: mx.array) -> None:
    if gate.shape != up.shape:
        raise KernelError(f"{name}: expected gate and up of one shape; got {gate.shape} and {up.shape}")


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """`silu(gate) * up`, in float32, rounded once. Both of one shape."""
    _check("swiglu", gate, up)
    return _swiglu(gate, up)


def geglu(gate: mx.array, up: mx.array, approximate: str = "tanh") -> mx.array:
    """`gelu(gate) * up`, in float32, rounded once. Both of one shape.

    Args:
        gate: what the activation is applied to.
        up: what it multiplies.
        approximate: `tanh` (Gemma's `gelu_pytorch_tanh`) or `exact` (by the error function).
    """
    _check("geglu", gate, up)
    if approximate not in ("tanh", "exact"):
        raise KernelError(f"geglu: expected approximate tanh or exact; got {approximate!r}")
    return _geglu(gate, up, approximate=approximate)
