"""Muon for the matrices of the blocks, AdamW for the rest.

Muon (Jordan, 2024): momentum, made orthogonal by five Newton-Schulz steps, scaled to the size of AdamW's updates.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from vlm_train.recipes.demo.parameters import named, tree_of

_MUON_MOMENTUM = 0.95
_ADAM_BETAS = (0.9, 0.95)
_CLIP = 1.0


def orthogonalise(x: mx.array, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    """The nearest (semi-)orthogonal matrices, roughly. x: [n, rows, columns]."""
    x = x.astype(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.swapaxes(1, 2) if tall else x
    x = x / (mx.linalg.norm(x.astype(mx.float32), axis=[1, 2], keepdims=True) + 1e-7).astype(dtype)
    for _ in range(5):
        square = x @ x.swapaxes(1, 2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    return x.swapaxes(1, 2) if tall else x


def is_matrix(name: str, value: mx.array) -> bool:
    """Whether a parameter is a matrix inside a block or the merger."""
    return value.ndim == 2 and any(part in name for part in ("visual.blocks", "visual.merger", ".layers."))


def parts(name: str) -> int:
    """How many matrices a parameter holds one above the other: query, key and value of the vision blocks."""
    return 3 if "qkv" in name else 1


class Optimizer:
    """State by parameter name: `velocity/NAME` for matrices, `mean/NAME` and `square/NAME` for the rest."""

    def __init__(self, parameters: Any, decay: float = 0.05) -> None:
        self.decay = decay
        self.step_number = 0
        self.state: dict[str, mx.array] = {}
        for name, value in named(parameters):
            zeros = mx.zeros(value.shape, mx.float32)
            if is_matrix(name, value):
                self.state[f"velocity/{name}"] = zeros
            else:
                self.state[f"mean/{name}"] = zeros
                self.state[f"square/{name}"] = zeros

    def update(self, parameters: Any, gradients: Any, rate: float) -> Any:
        """New parameters; float32 throughout."""
        self.step_number += 1
        given = dict(named(gradients))
        current = dict(named(parameters))
        matrices = [name for name, value in current.items() if is_matrix(name, value)]
        new = self._muon({name: current[name] for name in matrices}, given, rate)
        others = [name for name in current if name not in new]
        norm = mx.sqrt(sum((given[name].square().sum() for name in others), mx.array(0.0)))
        clip = mx.minimum(1.0, _CLIP / (norm + 1e-6))
        for name in others:
            new[name] = self._adam(name, current[name], given[name] * clip, rate)
        return tree_of(new.items())

    def _muon(self, current: dict[str, mx.array], given: dict[str, mx.array], rate: float) -> dict[str, mx.array]:
        groups: dict[tuple[int, int], list[str]] = {}
        for name, value in current.items():
            groups.setdefault((value.shape[0] // parts(name), value.shape[1]), []).append(name)
        new = {}
        for shape, names in groups.items():
            steps = []
            for name in names:
                key = f"velocity/{name}"
                self.state[key] = _MUON_MOMENTUM * self.state[key] + (1 - _MUON_MOMENTUM) * given[name]
                nesterov = _MUON_MOMENTUM * self.state[key] + (1 - _MUON_MOMENTUM) * given[name]
                steps.append(nesterov.reshape(parts(name), *shape))
            update = orthogonalise(mx.concatenate(steps)).astype(mx.float32) * (0.2 * math.sqrt(max(shape)))
            start = 0
            for name in names:
                piece = update[start : start + parts(name)].reshape(current[name].shape)
                start += parts(name)
                new[name] = current[name] * (1 - rate * self.decay) - rate * piece
        return new

    def _adam(self, name: str, value: mx.array, gradient: mx.array, rate: float) -> mx.array:
        first, second = _ADAM_BETAS
        mean = first * self.state[f"mean/{name}"] + (1 - first) * gradient
        square = second * self.state[f"square/{name}"] + (1 - second) * gradient.square()
        self.state[f"mean/{name}"], self.state[f"square/{name}"] = mean, square
        corrected = mean / (1 - first**self.step_number)
        spread = mx.sqrt(square / (1 - second**self.step_number)) + 1e-8
        return value - rate * corrected / spread
