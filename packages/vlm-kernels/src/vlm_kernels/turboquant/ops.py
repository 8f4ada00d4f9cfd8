"""The public functions: check the arguments, then take the path that the backend offers."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels.dispatch import Op
from vlm_kernels.errors import KernelError

from . import cpu, cuda, metal, reference
from .extras import NONE, Extras
from .masks import KeyMask
from .packed import Packed
from .spec import DEFAULT_SEED, Spec

_encode = Op("turboquant_encode", reference.encode, metal=metal.encode, cuda=cuda.encode, native=cpu.encode)
_decode = Op("turboquant_decode", reference.decode)
_attention = Op(
    "turboquant_attention", reference.attention, metal=metal.attention, cuda=cuda.attention, native=cpu.attention
)


def encode(x: mx.array, bits: int, *, seed: int = DEFAULT_SEED) -> Packed:
    """Quantize vectors.

    Args:
        x: [B, Hkv, S, D], float32, float16 or bfloat16.
        bits: 1 to 8.
        seed: of the rotation; the same for all vectors of one store.

    Raises:
        KernelError: bits, head size, rank or dtype that cannot be served.
    """
    if x.ndim != 4 or x.dtype not in (mx.float32, mx.float16, mx.bfloat16):
        raise KernelError(f"turboquant: expected floating vectors [B, Hkv, S, D], got {x.dtype} {x.shape}")
    return _encode(x, Spec(bits, x.shape[-1], seed))


def decode(packed: Packed, dtype: mx.Dtype = mx.float32) -> mx.array:
    """The vectors [B, Hkv, S, D] that the codes stand for. Unpacks all: for tests and export."""
    return _decode(packed, dtype)


def attention(
    q: mx.array,
    keys: Packed,
    values: Packed,
    *,
    scale: float,
    lengths: int | mx.array | None = None,
    offsets: int | mx.array | None = None,
    window: int | None = None,
    mask: mx.array | None = None,
    extras: Extras = NONE,
) -> mx.array:
    """softmax(scale * q k^T + mask) v on packed keys and values, never unpacking more than a block of them.

    Args:
        q: [B, H, L, D]; H is a multiple of the Hkv of keys and values. Softmax in float32; the result has q's dtype.
        keys: [B, Hkv, S]; may have other bits than values.
        values: [B, Hkv, S]; its head size may differ.
        scale: of the scores.
        lengths: filled keys of each row, after the write: one int, or int32 [B]. None: all S.
        offsets: position of each row's first query: one int, or int32 [B]; makes attention causal.
        window: with offsets, how many keys up to and including its own position a query sees.
        mask: bool (True attends) or additive, broadcastable to [B, H, L, S].
        extras: plain tokens before the packed ones, capped scores, sinks.

    A query that sees no key gives zeros.

    Raises:
        KernelError: shapes that do not belong together.
    """
    _check_shapes(q, keys, values)
    _check_extras(q, keys, values, extras)
    key_mask = KeyMask(lengths, offsets, window, mask)
    return _attention(q, keys, values, scale=scale, mask=key_mask, extras=extras)


def _check_shapes(q: mx.array, keys: Packed, values: Packed) -> None:
    if keys.norms.shape != values.norms.shape:
        raise KernelError(
            f"turboquant: expected keys and values of one shape [B, Hkv, S], got {keys.norms.shape} "
            f"and {values.norms.shape}"
        )
    batch, num_kv_heads, _ = keys.norms.shape
    if q.ndim != 4 or q.shape[0] != batch or q.shape[1] % num_kv_heads or q.shape[3] != keys.spec.head_size:
        raise KernelError(
            f"turboquant: expected queries [{batch}, multiple of {num_kv_heads}, L, {keys.spec.head_size}], "
            f"got {q.shape}"
        )


def _check_extras(q: mx.array, keys: Packed, values: Packed, extras: Extras) -> None:
    if extras.sinks is not None and extras.sinks.shape != (q.shape[1],):
        raise KernelError(f"turboquant: expected a sink for each of {q.shape[1]} heads, got {extras.sinks.shape}")
    for plain, packed in zip(extras.prefix or (), (keys, values), strict=False):
        want = (*packed.norms.shape[:2], extras.num_before, packed.spec.head_size)
        if plain.shape != want:
            raise KernelError(f"turboquant: expected plain tokens {want} before the packed ones, got {plain.shape}")
