"""Linear maps whose inputs and outputs are kept within bounds that the checkpoint brings (Gemma 4's towers)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from .linear import Linear


class ClippedLinear(nn.Module):
    """A map under the name `linear`; with `clipped`, scalar bounds on what goes in and what comes out."""

    def __init__(self, in_size: int, out_size: int, *, clipped: bool) -> None:
        super().__init__()
        self.linear = Linear(in_size, out_size, bias=False)
        if clipped:
            self.input_min, self.input_max = mx.array(-mx.inf), mx.array(mx.inf)
            self.output_min, self.output_max = mx.array(-mx.inf), mx.array(mx.inf)
            # bounds are measured, not learnt
            self.freeze(recurse=False, keys=["input_min", "input_max", "output_min", "output_max"])

    def __call__(self, x: mx.array) -> mx.array:
        if "input_min" not in self:
            return self.linear(x)
        x = mx.clip(x, self.input_min.astype(x.dtype), self.input_max.astype(x.dtype))
        y = self.linear(x)
        return mx.clip(y, self.output_min.astype(y.dtype), self.output_max.astype(y.dtype))
