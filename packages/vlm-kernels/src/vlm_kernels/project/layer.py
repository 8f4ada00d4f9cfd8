"""One linear layer as `project` takes it."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class Projection(NamedTuple):
    """A linear layer: dense [N, K], or packed by `mx.quantize` where scales are given.

    biases: of mode affine. bias: [N], added to the product, or None.
    """

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    bias: mx.array | None = None
    group_size: int = 64
    bits: int = 4
    mode: str = "affine"
