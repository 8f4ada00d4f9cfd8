"""Patch embedding: a convolution whose stride is its kernel, computed as one dense product."""

from __future__ import annotations

import math

import mlx.core as mx

from vlm_kernels.errors import KernelError
from vlm_kernels.linear import linear


def patch_embed(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """Convolve with stride equal to the kernel and no padding.

    Like that convolution, it leaves out a remainder at the far edges.

    Args:
        x: [B, *size, C], one to three spatial axes (images, or frames and images).
        weight: [O, *kernel, C].
        bias: [O] or None.

    Returns:
        [B, *(size // kernel), O].

    Raises:
        KernelError: the shapes do not fit.
    """
    axes = x.ndim - 2
    if not 1 <= axes <= 3 or weight.ndim != x.ndim or x.shape[-1] != weight.shape[-1]:
        raise KernelError(
            f"patch_embed: expected x [B, *size, C] and weight [O, *kernel, C]; got {x.shape} and {weight.shape}"
        )
    kernel = weight.shape[1:-1]
    grid = [size // step for size, step in zip(x.shape[1:-1], kernel)]
    x = x[(slice(None), *(slice(0, count * step) for count, step in zip(grid, kernel)))]
    split = [extent for pair in zip(grid, kernel) for extent in pair]
    x = x.reshape(x.shape[0], *split, x.shape[-1])
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    patches = x.transpose(order).reshape(x.shape[0], *grid, math.prod(kernel) * x.shape[-1])
    return linear(patches, weight.reshape(weight.shape[0], -1), bias)
