"""TurboQuant on Metal: the common kernels, and MLX's dense attention for many query rows.

The text has been run under emulation only (`vlm_kernels.emulate`): algorithm verified, compilation unverified.
"""

from __future__ import annotations

import functools

import mlx.core as mx

from . import kernels, reference
from .dense import dense_attention
from .extras import NONE, Extras, with_extras
from .kernels import Dialect
from .masks import KeyMask
from .packed import Packed
from .spec import Spec

# Metal takes an array of fewer than 8 elements as a constant, which the kernels' pointers are not.
MIN_SIZE = 8
MIN_DENSE_QUERIES = 16
NUM_BLOCKS = 256


@functools.cache
def dialect() -> Dialect:
    """Metal on the device."""
    return Dialect("metal", mx.fast.metal_kernel, block_threads=256, encode_threads=256)


def encode(x: mx.array, spec: Spec) -> Packed:
    """`reference.encode` on Metal."""
    return kernels.encode(dialect(), x, spec) if x.size else reference.encode(x, spec)


def attention(
    q: mx.array, keys: Packed, values: Packed, *, scale: float, mask: KeyMask, extras: Extras = NONE
) -> mx.array:
    """`reference.attention` on Metal."""
    own = mask.after(extras.num_before)
    if q.size == 0 or keys.norms.size < MIN_SIZE or (own.array is not None and own.array.size < MIN_SIZE):
        return reference.attention(q, keys, values, scale=scale, mask=mask, extras=extras)
    if q.shape[2] < MIN_DENSE_QUERIES:
        dtype = mx.float32 if extras.is_merged else q.dtype
        out, log_total = kernels.scan(
            dialect(), q, keys, values, scale, own, NUM_BLOCKS, softcap=extras.softcap, dtype=dtype
        )
        if not extras.is_merged:
            return out
        return with_extras(out, log_total, q, scale=scale, mask=mask, extras=extras).astype(q.dtype)
    # float32 queries ask for float32 arithmetic, and MLX's attention knows no softcap.
    if q.dtype == mx.float32 or extras.softcap is not None:
        return reference.attention(q, keys, values, scale=scale, mask=mask, extras=extras)
    unpack = functools.partial(kernels.unpack, dialect())
    return dense_attention(unpack, q, keys, values, scale=scale, mask=mask, extras=extras)
