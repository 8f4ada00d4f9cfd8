"""Gated activations by the native library."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.gated_activation import reference


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    if not native.serves(gate, up):
        return reference.swiglu(gate, up)
    return native.call("swiglu", gate, up)


def geglu(gate: mx.array, up: mx.array, approximate: str = "tanh") -> mx.array:
    if not native.serves(gate, up):
        return reference.geglu(gate, up, approximate)
    return native.call("geglu", gate, up, approximate == "exact")
