"""TurboQuant by the native CPU library: few queries read the codes, many take dense attention over a bounded workspace."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.attention import attention as attend

from . import kernels, reference
from .dense import dense_attention
from .extras import NONE, Extras
from .masks import KeyMask
from .packed import Packed
from .rotation import rotation_array
from .spec import Spec

# From this many queries a row on, unpacking once costs less than a look-up for every four rows.
MIN_DENSE_QUERIES = 16


def encode(x: mx.array, spec: Spec) -> Packed:
    """`reference.encode`; the codes of a coordinate next to a threshold may differ by rounding."""
    if not _built():
        return reference.encode(x, spec)
    tables = (kernels.table(spec.bits, "thresholds"), kernels.table(spec.bits, "values"))
    codes, norms = native.call(
        "turboquant_encode", x, rotation_array(spec.head_size, spec.seed), *tables, spec.bits, spec.num_words
    )
    return Packed(codes, norms, spec)


def attention(
    q: mx.array, keys: Packed, values: Packed, *, scale: float, mask: KeyMask, extras: Extras = NONE
) -> mx.array:
    """`reference.attention`; an explicit mask and extras take the dense path."""
    if not _built() or q.dtype not in (mx.float32, mx.float16, mx.bfloat16):
        return reference.attention(q, keys, values, scale=scale, mask=mask, extras=extras)
    if q.shape[2] >= MIN_DENSE_QUERIES or mask.array is not None or extras.is_merged or extras.softcap:
        dtype = mx.float32 if q.dtype == mx.float32 else mx.float16
        return dense_attention(
            _unpack, q, keys, values, scale=scale, mask=mask, attend=attend, dtype=dtype, extras=extras
        )
    batch, num_keys = q.shape[0], keys.norms.shape[2]
    inputs = [
        q,
        keys.codes,
        keys.norms,
        values.codes,
        values.norms,
        rotation_array(keys.spec.head_size, keys.spec.seed),
        rotation_array(values.spec.head_size, values.spec.seed, transposed=True),
        kernels.table(keys.spec.bits, "values"),
        kernels.table(values.spec.bits, "values"),
        kernels.per_row(mask.lengths, batch, num_keys),
    ]
    if mask.offsets is not None:
        inputs.append(kernels.per_row(mask.offsets, batch, 0))
    out: mx.array = native.call(
        "turboquant_attention", inputs, scale, keys.spec.bits, values.spec.bits, mask.window or 0
    )
    return out


def _built() -> bool:
    """Whether the loaded library has these kernels: one that was built before them lacks the names."""
    return hasattr(native.library(), "turboquant_attention")


def _unpack(packed: Packed, first: int, last: int, num_keys: int, factor: mx.array) -> mx.array:
    part = Packed(packed.codes[:, first:last, :num_keys], packed.norms[:, first:last, :num_keys], packed.spec)
    return reference.rotated_values(part) * factor[0]
