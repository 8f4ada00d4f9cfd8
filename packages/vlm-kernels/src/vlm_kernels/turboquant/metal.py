"""TurboQuant on Metal: the common kernels, and MLX's dense attention for many query rows.

The text has been run under emulation only (`vlm_kernels.emulate`): algorithm verified, compilation unverified.
"""

from __future__ import annotations

import functools

import mlx.core as mx

from . import kernels, reference
from .dense import dense_attention
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


def attention(q: mx.array, keys: Packed, values: Packed, *, scale: float, mask: KeyMask) -> mx.array:
    """`reference.attention` on Metal."""
    if q.size == 0 or keys.norms.size < MIN_SIZE or (mask.array is not None and mask.array.size < MIN_SIZE):
        return reference.attention(q, keys, values, scale=scale, mask=mask)
    if q.shape[2] < MIN_DENSE_QUERIES:
        return kernels.scan(dialect(), q, keys, values, scale, mask, NUM_BLOCKS)
    if q.dtype == mx.float32:
        return reference.attention(q, keys, values, scale=scale, mask=mask)
    unpack = functools.partial(kernels.unpack, dialect())
    return dense_attention(unpack, q, keys, values, scale=scale, mask=mask)
