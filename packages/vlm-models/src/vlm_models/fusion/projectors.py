"""From a tower's width to a decoder's."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..core.config import check
from ..layers.activation import activation
from ..layers.linear import Linear


class TwoLayerProjector(nn.Module):
    """linear_2(act(linear_1(x))): LLaVA's."""

    def __init__(self, in_size: int, dim: int, act: str, *, bias: bool = True) -> None:
        super().__init__()
        self.linear_1 = Linear(in_size, dim, bias=bias)
        self.linear_2 = Linear(dim, dim, bias=bias)
        self._act = activation(act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(self._act(self.linear_1(x)))


def feature_layers(value: int | list[int] | None, depth: int) -> tuple[int, ...]:
    """vision_feature_layer of a configuration as indices into a tower's states (0: the embeddings; negative from the end).

    Raises ConfigError for a layer the tower does not have."""
    layers = (-2,) if value is None else (value,) if isinstance(value, int) else tuple(value)
    for layer in layers:
        check(-depth - 1 <= layer <= depth, f"vision_feature_layer {layer} is none of a tower of {depth} layers")
    check(bool(layers), "vision_feature_layer names no layer")
    return layers


def select_states(states: Sequence[mx.array], layers: Sequence[int], *, drop_first: bool) -> mx.array:
    """The chosen states [n, L, dim] joined on the feature axis; `drop_first` leaves out the first token of each picture."""
    chosen = states[layers[0]] if len(layers) == 1 else mx.concatenate([states[i] for i in layers], axis=-1)
    return chosen[:, 1:] if drop_first else chosen
