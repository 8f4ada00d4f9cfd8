"""Rotary positions from tables of cosines and sines, in float32, rounded once."""

from __future__ import annotations

import mlx.core as mx


def rope(x: mx.array, cos: mx.array, sin: mx.array, *, interleaved: bool = False) -> mx.array:
    half = cos.shape[-1]
    rotated, rest = x[..., : 2 * half].astype(mx.float32), x[..., 2 * half :]
    cos, sin = cos.astype(mx.float32)[:, None], sin.astype(mx.float32)[:, None]
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = rotated[..., :half], rotated[..., half:]
    parts = [first * cos - second * sin, second * cos + first * sin]
    if interleaved:
        joined = mx.stack(parts, axis=-1).reshape(rotated.shape)
    else:
        joined = mx.concatenate(parts, axis=-1)
    joined = joined.astype(x.dtype)
    return joined if rest.shape[-1] == 0 else mx.concatenate([joined, rest], axis=-1)
