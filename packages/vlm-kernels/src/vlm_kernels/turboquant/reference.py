"""The definition of the TurboQuant ops in plain MLX operations.

encode:     y = rotate(x / |x|) * sqrt(D);  code = nearest centroid of each y;  norm = |x| / sqrt(D) * <y, c> / <c, c>
decode:     x^ = rotate_back(norm * centroids[code])
attention:  softmax(scale * q . k^ + mask) . v^, on the codes: q is rotated once, the result is rotated back once

Arithmetic is float32, results have the dtype of x or q. `attention` is differentiable with respect to q; codes are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import mlx.core as mx

from .codebook import codebook
from .extras import NONE, Extras
from .masks import KeyMask
from .packed import Packed
from .packing import pack, unpack
from .rotation import rotation_array
from .spec import Spec

KEY_BLOCK = 1024


def encode(x: mx.array, spec: Spec) -> Packed:
    """x: [B, Hkv, S, D] to packed vectors. A zero vector gets norm 0."""
    y = x.astype(mx.float32)
    length = mx.linalg.norm(y, axis=-1, keepdims=True)
    y = (y * (math.sqrt(spec.head_size) / mx.maximum(length, 1e-30))) @ rotation_array(spec.head_size, spec.seed)
    codes = nearest_codes(y, spec.bits)
    centroids = mx.array(codebook(spec.bits).values)[codes]
    # Least squares: the multiple of the centroids that lies nearest, not the one of equal length.
    fit = (y * centroids).sum(axis=-1) / (centroids * centroids).sum(axis=-1)
    norms = length[..., 0] * fit / math.sqrt(spec.head_size)
    return Packed(pack(codes, spec.bits), norms.astype(mx.bfloat16), spec)


def nearest_codes(y: mx.array, bits: int) -> mx.array:
    """Code (uint32) of the nearest centroid for each unit-variance coordinate, by bisection of the thresholds."""
    table = codebook(bits)
    magnitude = mx.zeros(y.shape, mx.uint32)
    if bits > 1:
        thresholds, size = mx.array(table.thresholds), mx.abs(y)
        for bit in reversed(range(bits - 1)):
            candidate = magnitude + (1 << bit)
            magnitude = mx.where(size >= thresholds[candidate - 1], candidate, magnitude)
    return magnitude | ((y < 0).astype(mx.uint32) << (bits - 1))


def decode(packed: Packed, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Packed vectors to [B, Hkv, S, D]."""
    spec = packed.spec
    return (rotated_values(packed) @ rotation_array(spec.head_size, spec.seed, transposed=True)).astype(dtype)


def rotated_values(packed: Packed) -> mx.array:
    """float32 [B, Hkv, S, D] in the rotated basis."""
    centroids = mx.array(codebook(packed.spec.bits).values)[
        unpack(packed.codes, packed.spec.bits, packed.spec.head_size)
    ]
    return centroids * packed.norms[..., None].astype(mx.float32)


def attention(
    q: mx.array, keys: Packed, values: Packed, *, scale: float, mask: KeyMask, extras: Extras = NONE
) -> mx.array:
    """Online softmax over blocks of `KEY_BLOCK` keys: at no time is more than one block unpacked."""
    batch, num_heads, length, head_size = q.shape
    num_kv_heads, num_keys = keys.norms.shape[1:]
    group = (batch, num_kv_heads, num_heads // num_kv_heads * length)
    before = extras.num_before
    key_rotation = rotation_array(keys.spec.head_size, keys.spec.seed)
    value_rotation = rotation_array(values.spec.head_size, values.spec.seed)
    rotated = ((q.astype(mx.float32) * scale) @ key_rotation).reshape(*group, head_size)

    peak = mx.full((*group, 1), -mx.inf, mx.float32)
    total = mx.zeros((*group, 1), mx.float32)
    result = mx.zeros((*group, values.spec.head_size), mx.float32)
    if extras.sinks is not None:
        sinks = extras.sinks.astype(mx.float32).reshape(1, num_kv_heads, -1, 1)
        peak = mx.broadcast_to(sinks, (*group[:2], num_heads // num_kv_heads, length)).reshape(*group, 1)
        total = mx.ones_like(total)

    def add(scores: mx.array, block_values: Callable[[mx.array], mx.array], first: int) -> None:
        nonlocal peak, total, result
        scores = extras.cap(scores).reshape(batch, num_heads, length, -1)
        scores = mask.apply(scores, first).reshape(*group, -1)
        new_peak = mx.maximum(peak, scores.max(axis=-1, keepdims=True))
        # A row that has not yet seen a key keeps the peak -inf, and exp(-inf + inf) must not become NaN.
        base = mx.where(mx.isinf(new_peak), 0.0, new_peak)
        weights, keep = mx.exp(scores - base), mx.exp(peak - base)
        total = total * keep + weights.sum(axis=-1, keepdims=True)
        result = result * keep + weights @ block_values(weights)
        peak = new_peak

    if extras.prefix is not None:
        plain_keys, plain_values = (array.astype(mx.float32) for array in extras.prefix)
        add(rotated @ (plain_keys @ key_rotation).swapaxes(-1, -2), lambda _: plain_values @ value_rotation, 0)
    for first in range(0, min(num_keys, mask.max_length(num_keys + before) - before), KEY_BLOCK):
        last = min(first + KEY_BLOCK, num_keys)
        scores = rotated @ _rotated_block(keys, first, last, peak).swapaxes(-1, -2)
        add(scores, partial(_rotated_block, values, first, last), before + first)
    result = result / mx.maximum(total, 1e-30)
    result = result @ rotation_array(values.spec.head_size, values.spec.seed, transposed=True)
    return result.reshape(batch, num_heads, length, -1).astype(q.dtype)


def _rotated_block(packed: Packed, first: int, last: int, after: mx.array) -> mx.array:
    """The vectors [first, last), available once `after` is: without an order, all blocks could be unpacked at once."""
    codes, norms = packed.codes[:, :, first:last], packed.norms[:, :, first:last]
    codes, norms = mx.depends([codes, norms], [after])
    return rotated_values(Packed(mx.stop_gradient(codes), mx.stop_gradient(norms), packed.spec))
