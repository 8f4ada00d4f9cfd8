"""Attention by the native library."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.attention import reference


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: str | mx.array | None = None,
    sinks: mx.array | None = None,
    softcap: float | None = None,
) -> mx.array:
    if not native.serves(q, k, v):
        return reference.attention(q, k, v, scale=scale, mask=mask, sinks=sinks, softcap=softcap)
    causal = isinstance(mask, str)
    return native.call("attention", q, k, v, scale, causal, None if causal else mask, sinks, softcap or 0.0)


def block_attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, segments: Sequence[int]) -> mx.array:
    if not native.serves(q, k, v):
        return reference.block_attention(q, k, v, scale=scale, segments=segments)
    return native.call("block_attention", q, k, v, scale, list(segments))
