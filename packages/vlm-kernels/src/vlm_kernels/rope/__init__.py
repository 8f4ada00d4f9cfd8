"""Rotary position embedding."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels.dispatch import Op
from vlm_kernels.errors import KernelError
from vlm_kernels.rope import cpu, reference

_rope = Op("rope", reference.rope, native=cpu.rope)


def rope(x: mx.array, cos: mx.array, sin: mx.array, *, interleaved: bool = False) -> mx.array:
    """Rotate pairs of the first 2R dimensions of each head by the angles given; the other dimensions pass.

    One op serves 1-D, 2-D and M-RoPE alike: the caller builds the tables from its positions.

    Args:
        x: [B, H, L, D].
        cos: [B, L, R] or [1, L, R], float32, 2R <= D.
        sin: as cos.
        interleaved: pair dimensions (0, 1), (2, 3)... instead of (0, R), (1, R + 1)...

    Raises:
        KernelError: the shapes do not fit.
    """
    fits = x.ndim == 4 and cos.ndim == 3 and cos.shape == sin.shape and cos.shape[0] in (1, x.shape[0])
    if not fits or cos.shape[1] != x.shape[2] or 2 * cos.shape[2] > x.shape[3]:
        raise KernelError(
            f"rope: expected x [B, H, L, D], cos and sin [B or 1, L, R] with 2R <= D; "
            f"got {x.shape}, {cos.shape}, {sin.shape}"
        )
    return _rope(x, cos, sin, interleaved=interleaved)
