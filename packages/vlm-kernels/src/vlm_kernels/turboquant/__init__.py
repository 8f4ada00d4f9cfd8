"""TurboQuant: vectors in 1 to 8 bits a coordinate, and attention that reads them packed (arXiv:2504.19874).

A vector is scaled to unit variance, rotated by one random orthogonal matrix, and each coordinate is rounded to a
Lloyd-Max centroid of the normal distribution; a 16-bit norm brings the length back. Head size 128 takes 50 bytes a key
at 3 bits and 66 a value at 4, norms included: 116 of 512 bytes, 0.2266 of 16 bits.

Contract for a cache
--------------------
    key_bits, value_bits = split_bits(3.5)  # (3, 4): keys get the lower
    keys = allocate(batch, num_kv_heads, capacity, Spec(key_bits, head_size))  # two arrays
    values = allocate(batch, num_kv_heads, capacity, Spec(value_bits, value_head_size))

    keys = write(keys, encode(k, key_bits), offsets)  # k: [B, Hkv, L, D], to positions offsets..offsets+L
    values = write(values, encode(v, value_bits), offsets)  # offsets: int, or int32 [B]: a start per row
    out = attention(q, keys, values, scale=scale, lengths=offsets + L, offsets=offsets)

- `Packed(codes, norms, spec)` is plain data: `codes` uint32 [B, Hkv, S, words], `norms` bfloat16 [B, Hkv, S]. Cut,
  copy, concatenate or save both arrays along B, Hkv or S alike (joining rows, prefix reuse, growth); the last axis of
  `codes` is opaque. Positions are independent of each other: rewriting one touches no other.
- `spec` (bits, head size, seed, format version) must be saved beside the arrays; building a `Spec` of another format
  version raises, and stores of different specs never mix.
- Hand `attention` the whole store with `lengths`, not a slice: a slice along S is copied before a kernel reads it.
- `lengths` counts filled keys after the write; what lies beyond is never read as a key, whatever it holds. With
  L > 1, `offsets` makes the chunk causal; a ragged chunk is padded on the right, and the caller drops the surplus.
- Give ints where the host knows them (prefill of one request): the tail is then skipped without reading a mask, and
  long chunks take the dense path. Arrays keep a compiled decode step free of host synchronisation.
- One thread, one stream, as everywhere in MLX; nothing here holds state besides constant tables.
"""

from __future__ import annotations

from .codebook import Codebook, codebook
from .extras import Extras
from .ops import attention, decode, encode
from .packed import Packed, allocate, write
from .spec import DEFAULT_SEED, FORMAT_VERSION, Spec, split_bits

__all__ = [
    "DEFAULT_SEED",
    "FORMAT_VERSION",
    "Codebook",
    "Extras",
    "Packed",
    "Spec",
    "allocate",
    "attention",
    "codebook",
    "decode",
    "encode",
    "split_bits",
    "write",
]
