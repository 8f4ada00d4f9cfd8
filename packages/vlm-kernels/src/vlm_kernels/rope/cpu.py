"""Rotary positions by the native library."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.rope import reference

_MAX_PAIRS = 512  # of the kernel's buffer


def rope(x: mx.array, cos: mx.array, sin: mx.array, *, interleaved: bool = False) -> mx.array:
    if not native.serves(x) or cos.shape[-1] > _MAX_PAIRS:
        return reference.rope(x, cos, sin, interleaved=interleaved)
    return native.call("rope", x, cos, sin, interleaved)
