"""Attention of many queries: a few heads at a time are unpacked and handed to dense attention.

For prefill chunks, where the matrix products outweigh the unpacking. The workspace is bounded, and everything stays in the
rotated basis. float16 with the largest norm taken out carries three bits more than bfloat16 at the same speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .extras import NONE, Extras
from .masks import KeyMask
from .packed import Packed
from .rotation import rotation_array
from .spec import Spec

WORKSPACE_BYTES = 128 * 2**20
# From so many unpacked bytes a group on, the host waits for the group. It allocates as it queues, far ahead of the device, and
# would hold the unpacked keys and values of all layers of a chunk at once: measured on an H200 at 128k keys, 8 to 11 GB.
WAIT_BYTES = 16 * 2**20

# (packed, first head, last head, number of keys, factor [8] float32) -> [B, heads, keys, D], rotated
Unpack = Callable[[Packed, int, int, int, mx.array], mx.array]
# (q, k, v, *, scale, mask) -> result, as mx.fast.scaled_dot_product_attention
Attend = Callable[..., mx.array]


def dense_attention(
    unpack: Unpack,
    q: mx.array,
    keys: Packed,
    values: Packed,
    *,
    scale: float,
    mask: KeyMask,
    attend: Attend = mx.fast.scaled_dot_product_attention,
    dtype: mx.Dtype = mx.float16,
    extras: Extras = NONE,
) -> mx.array:
    """`reference.attention` with queries, keys and values in `dtype` and float32 sums. A softcap must be known to `attend`."""
    batch, num_heads, length, head_size = q.shape
    num_kv_heads, num_keys = keys.norms.shape[1:]
    before = extras.num_before
    num_keys = max(0, min(num_keys, mask.max_length(num_keys + before) - before))
    group = num_heads // num_kv_heads
    key_peak, value_peak = _peak(keys), _peak(values)
    if extras.prefix is not None:
        key_peak = mx.maximum(key_peak, mx.abs(extras.prefix[0]).max().astype(mx.float32))
        value_peak = mx.maximum(value_peak, mx.abs(extras.prefix[1]).max().astype(mx.float32))
    rotated = (q.astype(mx.float32) * (scale * key_peak)) @ rotation_array(head_size, keys.spec.seed)
    rotated = rotated.astype(dtype)
    sdpa_mask, any_visible = _mask(mask, length, before + num_keys, dtype)
    if extras.sinks is not None:
        any_visible = None

    head_bytes = dtype.size * batch * max(1, before + num_keys) * (head_size + values.spec.head_size)
    step = max(1, min(num_kv_heads, WORKSPACE_BYTES // head_bytes))
    waits = step * head_bytes >= WAIT_BYTES and mask.is_on_host
    results: list[mx.array] = []
    for first in range(0, num_kv_heads, step):
        last = min(first + step, num_kv_heads)
        part = sdpa_mask
        if isinstance(part, mx.array) and part.shape[1] > 1:
            part = part[:, first * group : last * group]
        queries = rotated[:, first * group : last * group]
        if results:
            # Without an order between the groups, all of them could be unpacked at once.
            queries = mx.depends([queries], [results[-1]])[0]
        own = [unpack(keys, first, last, num_keys, _spread(1.0 / key_peak, queries)).astype(dtype)] if num_keys else []
        given = (
            [unpack(values, first, last, num_keys, _spread(1.0 / value_peak, queries)).astype(dtype)]
            if num_keys
            else []
        )
        if extras.prefix is not None:
            own.insert(0, _rotated(extras.prefix[0][:, first:last], key_peak, keys.spec, dtype))
            given.insert(0, _rotated(extras.prefix[1][:, first:last], value_peak, values.spec, dtype))
        options: dict[str, Any] = {} if extras.softcap is None else {"softcap": extras.softcap}
        if extras.sinks is not None:
            options["sinks"] = extras.sinks[first * group : last * group].astype(dtype)
        results.append(
            attend(queries, mx.concatenate(own, axis=2), mx.concatenate(given, axis=2), scale=1.0, mask=part, **options)
        )
        del own, given
        if waits:
            mx.eval(results[-1])
    out = mx.concatenate(results, axis=1) if len(results) > 1 else results[0]
    if any_visible is not None:
        out = mx.where(any_visible, out, 0.0)
    out = (out.astype(mx.float32) * value_peak) @ rotation_array(
        values.spec.head_size, values.spec.seed, transposed=True
    )
    return out.astype(q.dtype)


def _rotated(x: mx.array, peak: mx.array, spec: Spec, dtype: mx.Dtype) -> mx.array:
    """Plain vectors as unpacked ones are: rotated, over `peak`."""
    return ((x.astype(mx.float32) / peak) @ rotation_array(spec.head_size, spec.seed)).astype(dtype)


def _peak(packed: Packed) -> mx.array:
    return mx.maximum(packed.norms.max().astype(mx.float32), 1e-30)


def _spread(value: mx.array, after: mx.array) -> mx.array:
    """The scalar in an array that a kernel can take, available once `after` is."""
    return mx.depends([mx.broadcast_to(value, (8,))], [after])[0]


def _mask(mask: KeyMask, length: int, num_keys: int, dtype: mx.Dtype) -> tuple[str | mx.array | None, mx.array | None]:
    """The mask that MLX's attention takes, and which queries see a key at all (None: all do)."""
    plain = mask.array is None and mask.window is None and not isinstance(mask.lengths, mx.array)
    if plain and mask.offsets is None:
        return None, None
    if plain and isinstance(mask.offsets, int) and mask.offsets + length == num_keys:
        return "causal", None
    shown = mask.apply(mx.zeros((1, 1, length, num_keys), mx.float32), 0)
    return mx.maximum(shown, -65504.0).astype(dtype), mx.logical_not(mx.isinf(shown).all(axis=-1, keepdims=True))
