"""Softmax attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import cast

import mlx.core as mx

from vlm_kernels.attention import cpu, reference
from vlm_kernels.dispatch import Op
from vlm_kernels.errors import KernelError


def _mlx_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: str | mx.array | None = None,
    sinks: mx.array | None = None,
    softcap: float | None = None,
) -> mx.array:
    if softcap is not None:
        return reference.attention(q, k, v, scale=scale, mask=mask, sinks=sinks, softcap=softcap)
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        mask = mask.astype(q.dtype)  # MLX refuses a mask wider than the queries
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask, sinks=sinks)


def _mlx_block_attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, segments: Sequence[int]) -> mx.array:
    parts, start = [], 0
    for count, run in groupby(segments):
        rows = len(list(run))
        span = slice(start, start + rows * count)
        parts.append(_equal_segments(q[:, :, span], k[:, :, span], v[:, :, span], scale, rows))
        start += rows * count
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


def _equal_segments(q: mx.array, k: mx.array, v: mx.array, scale: float, rows: int) -> mx.array:
    """Equal segments become rows of a batch: one launch instead of one for each."""
    batch, heads, length, _ = q.shape

    def split(x: mx.array) -> mx.array:
        cells = x.reshape(batch, x.shape[1], rows, length // rows, x.shape[-1]).swapaxes(1, 2)
        return cells.reshape(batch * rows, *cells.shape[2:])

    result = mx.fast.scaled_dot_product_attention(split(q), split(k), split(v), scale=scale)
    joined = result.reshape(batch, rows, heads, length // rows, v.shape[-1]).swapaxes(1, 2)
    return joined.reshape(batch, heads, length, v.shape[-1])


_attention = Op("attention", reference.attention, mlx=_mlx_attention, native=cpu.attention)
_block_attention = Op(
    "block_attention", reference.block_attention, mlx=_mlx_block_attention, native=cpu.block_attention
)


def _check(name: str, q: mx.array, k: mx.array, v: mx.array) -> None:
    fits = q.ndim == k.ndim == v.ndim == 4 and q.shape[0] == k.shape[0] and q.shape[-1] == k.shape[-1]
    if not fits or k.shape[:3] != v.shape[:3] or k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise KernelError(
            f"{name}: expected q [B, H, L, D], k [B, Hkv, S, D], v [B, Hkv, S, Dv] with H a multiple of Hkv; "
            f"got {q.shape}, {k.shape}, {v.shape}"
        )


def _host(segments: Sequence[int] | mx.array) -> Sequence[int]:
    if not isinstance(segments, mx.array):
        return segments
    if segments.ndim != 1:
        raise KernelError(f"block_attention: expected one axis of lengths; got {segments.shape}")
    return cast(list[int], segments.tolist())


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
    """`softmax(scale * q @ k^T + mask) @ v`, softmax in float32; grouped queries share a key head.

    Args:
        q: [B, H, L, D].
        k: [B, Hkv, S, D]; H is a multiple of Hkv.
        v: [B, Hkv, S, Dv].
        scale: multiplies the scores.
        mask: None; `"causal"`, where the last query sees the last key; a boolean array, true where a key is seen;
            or a floating array that is added. Arrays broadcast to [B, H, L, S].
        sinks: [H], a score per head that takes part in the softmax and carries no value.
        softcap: scores become `softcap * tanh(scores / softcap)` before the mask.

    Returns:
        [B, H, L, Dv] in q's dtype. A query that sees no key is the caller's to ignore: the reference and the native
        library give zeros, MLX's own ops may not.

    Raises:
        KernelError: shapes, mask or sinks that do not fit.
    """
    _check("attention", q, k, v)
    if isinstance(mask, str) and mask != "causal":
        raise KernelError(f'attention: expected mask None, "causal" or an array; got {mask!r}')
    if sinks is not None and sinks.shape != (q.shape[1],):
        raise KernelError(f"attention: expected sinks [{q.shape[1]}], one per head; got {sinks.shape}")
    return _attention(q, k, v, scale=scale, mask=mask, sinks=sinks, softcap=softcap)


def block_attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, segments: Sequence[int] | mx.array
) -> mx.array:
    """Attention within consecutive segments only, both directions: the windows or the images of a vision encoder.

    Args:
        q: [B, H, L, D].
        k: [B, Hkv, L, D].
        v: [B, Hkv, L, Dv].
        scale: multiplies the scores.
        segments: lengths along L that add up to L. An array is read on the host.

    Raises:
        KernelError: shapes that do not fit, or lengths that do not add up.
    """
    _check("block_attention", q, k, v)
    lengths = [int(count) for count in _host(segments)]
    if q.shape[2] != k.shape[2] or sum(lengths) != q.shape[2] or any(count < 0 for count in lengths):
        raise KernelError(
            f"block_attention: expected lengths that add up to {q.shape[2]} queries and {k.shape[2]} keys; "
            f"got a sum of {sum(lengths)}"
        )
    lengths = [count for count in lengths if count]
    if not lengths:
        return mx.zeros((*q.shape[:3], v.shape[-1]), dtype=q.dtype)
    return _block_attention(q, k, v, scale=scale, segments=lengths)
