"""Feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import geglu, swiglu

from .activation import activation
from .linear import Linear, together


def gated(name: str) -> Callable[[mx.array, mx.array], mx.array]:
    """(gate, up) -> act(gate) * up, fused where a kernel exists. Raises ConfigError for an unknown activation."""
    if name in ("silu", "swish"):
        return swiglu
    if name in ("gelu_pytorch_tanh", "gelu"):
        return lambda gate, up: geglu(gate, up, approximate="exact" if name == "gelu" else "tanh")
    act = activation(name)
    return lambda gate, up: act(gate) * up


# How `vlm_kernels.project` names the activations it fuses.
_FUSED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu_exact"}


class GatedMlp(nn.Module):
    """down(act(gate(x)) * up(x)): Llama's and everybody's since."""

    def __init__(self, dim: int, hidden: int, act: str, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, hidden, bias=bias)
        self.up_proj = Linear(dim, hidden, bias=bias)
        self.down_proj = Linear(hidden, dim, bias=bias)
        self._gated = gated(act)
        self._fused = _FUSED.get(act, "")

    def __call__(self, x: mx.array) -> mx.array:
        active = together(x, (self.gate_proj, self.up_proj), self._fused) if self._fused else None
        if active is not None:
            return self.down_proj(active[0])
        return self.down_proj(self._gated(self.gate_proj(x), self.up_proj(x)))


class Mlp(nn.Module):
    """fc2(act(fc1(x)))."""

    def __init__(self, dim: int, hidden: int, act: str, *, out: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden, bias=bias)
        self.fc2 = Linear(hidden, out or dim, bias=bias)
        self._act = activation(act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(self._act(self.fc1(x)))
