"""Cases of `turboquant.attention`: head sizes, bits, groups, ragged rows, windows and masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from vlm_kernels.testing import random

from .masks import KeyMask
from .packed import Packed
from .reference import encode
from .spec import Spec


@dataclass(frozen=True)
class AttentionCase:
    """Shapes and options of one call; arrays are made anew, the same each time."""

    name: str
    batch: int = 1
    num_heads: int = 4
    num_kv_heads: int = 1
    num_queries: int = 1
    num_keys: int = 40
    head_size: int = 64
    value_size: int | None = None
    key_bits: int = 3
    value_bits: int = 4
    dtype: mx.Dtype = mx.float32
    lengths: tuple[int, ...] | int | None = None
    offsets: tuple[int, ...] | int | None = None
    window: int | None = None
    mask: str | None = field(default=None)

    def build(self) -> tuple[mx.array, Packed, Packed, float, KeyMask]:
        """Queries, keys, values, scale, mask."""
        value_size = self.value_size or self.head_size
        q = random((self.batch, self.num_heads, self.num_queries, self.head_size), self.dtype, seed=1)
        k = random((self.batch, self.num_kv_heads, self.num_keys, self.head_size), seed=2)
        v = random((self.batch, self.num_kv_heads, self.num_keys, value_size), seed=3)
        keys = encode(k, Spec(self.key_bits, self.head_size))
        values = encode(v, Spec(self.value_bits, value_size))
        mask = KeyMask(_positions(self.lengths), _positions(self.offsets), self.window, self._mask_array())
        return q, keys, values, self.head_size**-0.5, mask

    def _mask_array(self) -> mx.array | None:
        if self.mask is None:
            return None
        generator = np.random.default_rng(4)
        if self.mask == "bool":
            return mx.array(generator.random((self.batch, 1, 1, self.num_keys)) < 0.6)
        shape = (1, self.num_heads, self.num_queries, self.num_keys)
        return mx.array(generator.standard_normal(shape).astype(np.float32))


def _positions(value: tuple[int, ...] | int | None) -> int | mx.array | None:
    return mx.array(value, mx.int32) if isinstance(value, tuple) else value


ATTENTION = (
    AttentionCase("plain", head_size=128),
    AttentionCase("bfloat16", head_size=128, num_heads=8, num_kv_heads=2, dtype=mx.bfloat16, num_keys=90),
    AttentionCase("ragged", batch=2, num_heads=8, num_kv_heads=2, num_keys=150, lengths=(130, 77), offsets=(129, 76)),
    AttentionCase("long-row-tail", batch=2, num_keys=133, head_size=128, lengths=(133, 5)),
    AttentionCase("empty-row", batch=2, num_keys=40, lengths=(40, 0)),
    AttentionCase("chunk", num_queries=3, num_keys=70, lengths=60, offsets=57),
    AttentionCase("group-of-7", num_heads=7, num_queries=2, num_keys=50, head_size=128, lengths=48, offsets=46),
    AttentionCase("rows-past-a-tile", num_heads=3, num_queries=5, num_keys=40, lengths=(35,), offsets=(30,)),
    AttentionCase("window", batch=2, num_queries=2, num_keys=150, lengths=(140, 90), offsets=(138, 88), window=40),
    AttentionCase("bool-mask", batch=2, num_heads=2, num_keys=60, mask="bool"),
    AttentionCase("additive-mask", num_heads=4, num_kv_heads=2, num_queries=2, num_keys=60, mask="additive"),
    AttentionCase("one-and-two-bits", num_keys=50, key_bits=1, value_bits=2),
    AttentionCase("four-and-three-bits", num_keys=50, key_bits=4, value_bits=3, head_size=128),
    AttentionCase("two-and-one-bits", num_keys=50, key_bits=2, value_bits=1, head_size=256),
    AttentionCase("head-512", num_heads=2, head_size=512),
    AttentionCase("unequal-sizes", num_heads=2, head_size=128, value_size=64),
    AttentionCase("five-and-eight-bits", num_heads=2, head_size=80, key_bits=5, value_bits=8),
    AttentionCase("six-and-seven-bits", num_heads=2, head_size=72, value_size=112, key_bits=6, value_bits=7),
    AttentionCase("head-96", num_heads=2, head_size=96),
    AttentionCase("head-192", num_heads=2, head_size=192, value_size=160),
)
