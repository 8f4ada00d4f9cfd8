"""Softmax attention, scores and softmax in float32, rounded once.

A query that sees no key gets zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx


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
    batch, heads, length, _ = q.shape
    key_heads, keys = k.shape[1], k.shape[2]
    group = heads // key_heads
    wide = (q.astype(mx.float32) * scale).reshape(batch, key_heads, group, length, q.shape[-1])
    scores = wide @ k.astype(mx.float32)[:, :, None].swapaxes(-1, -2)
    if softcap is not None:
        scores = mx.tanh(scores / softcap) * softcap
    if isinstance(mask, str):
        mask = mx.arange(keys) <= mx.arange(length)[:, None] + (keys - length)
    if mask is not None:
        mask = mx.broadcast_to(mask, (batch, heads, length, keys)).reshape(batch, key_heads, group, length, keys)
        if mask.dtype == mx.bool_:
            scores = mx.where(mask, scores, -mx.inf)
        else:
            scores = scores + mask.astype(mx.float32)
    if keys == 0:
        return mx.zeros((batch, heads, length, v.shape[-1]), dtype=q.dtype)
    top = mx.max(scores, axis=-1, keepdims=True)
    sink = None
    if sinks is not None:
        sink = sinks.astype(mx.float32).reshape(1, key_heads, group, 1, 1)
        top = mx.maximum(top, sink)
    # A row without keys has top -inf; -inf - -inf would be NaN.
    top = mx.stop_gradient(mx.where(top == -mx.inf, 0.0, top))
    weights = mx.exp(scores - top)
    total = mx.sum(weights, axis=-1, keepdims=True)
    if sink is not None:
        total = total + mx.exp(sink - top)
    result = (weights @ v.astype(mx.float32)[:, :, None]) / mx.where(total == 0, 1.0, total)
    return result.reshape(batch, heads, length, v.shape[-1]).astype(q.dtype)


def block_attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, segments: Sequence[int]) -> mx.array:
    parts = []
    start = 0
    for size in segments:
        span = slice(start, start + size)
        parts.append(attention(q[:, :, span], k[:, :, span], v[:, :, span], scale=scale))
        start += size
    return mx.concatenate(parts, axis=2)
