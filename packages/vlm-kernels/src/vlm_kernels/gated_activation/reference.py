"""Gated activations in float32, rounded once."""

from __future__ import annotations

import math

import mlx.core as mx


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    wide = gate.astype(mx.float32)
    return (wide * mx.sigmoid(wide) * up.astype(mx.float32)).astype(mx.result_type(gate.dtype, up.dtype))


def geglu(gate: mx.array, up: mx.array, approximate: str = "tanh") -> mx.array:
    wide = gate.astype(mx.float32)
    if approximate == "tanh":
        inner = mx.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide))
    else:
        inner = mx.erf(wide * math.sqrt(0.5))
    return (0.5 * wide * (1 + inner) * up.astype(mx.float32)).astype(mx.result_type(gate.dtype, up.dtype))
