"""Real convolutions over channel-last pictures (patch convolutions are matrices; see layers/patches.py)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class Convolution(nn.Module):
    """[n, H, W, in] -> [n, H', W', out]. weight: [out, kernel, kernel, in / groups]; rule `Transpose` turns torch's."""

    def __init__(
        self, in_size: int, out_size: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        self.weight = mx.zeros((out_size, kernel, kernel, in_size // groups))
        self.bias = mx.zeros((out_size,))
        self.stride, self.padding, self.groups = stride, padding, groups

    def __call__(self, x: mx.array) -> mx.array:
        x = x.astype(self.weight.dtype)
        return mx.conv2d(x, self.weight, self.stride, self.padding, groups=self.groups) + self.bias


def convolved_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Samples a side of a convolution's result."""
    return (size + 2 * padding - kernel) // stride + 1
