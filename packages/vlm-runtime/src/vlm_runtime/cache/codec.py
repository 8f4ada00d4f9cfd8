"""How keys and values are stored, and attention over what is stored. Knows arrays along a token axis; no rows, no slots.

A codec turns keys [B, Hkv, L, D] and values [B, Hkv, L, Dv] into a tuple of arrays [B, Hkv, L, ...], which a layout keeps,
slices and copies without knowing what they mean, and attends over such a tuple. Attention never unpacks a whole store.
"""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

from vlm_kernels import attention
from vlm_models import Attention, AttentionRules

Stored = tuple[mx.array, ...]


class Codec(Protocol):
    """Storage form of keys and values."""

    def check(self, key_size: int, value_size: int) -> None:
        """Raises OptionError where heads of these sizes cannot be stored so."""

    def encode(self, keys: mx.array, values: mx.array) -> Stored:
        """Arrays to keep; axis 0 is the row, axis 2 the token."""

    def attend(
        self,
        queries: mx.array,
        stored: Stored,
        seen: int,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
        prefix: Stored = (),
    ) -> mx.array:
        """Attention of queries [B, H, L, D] over the first `seen` stored tokens, with sequence indices 0, 1..., masked by the plan.

        prefix: plain keys and values of p tokens that come before; the stored ones then are p, p + 1..."""


class PlainCodec:
    """Keys and values as they come."""

    def check(self, key_size: int, value_size: int) -> None:
        pass

    def encode(self, keys: mx.array, values: mx.array) -> Stored:
        return keys, values

    def attend(
        self,
        queries: mx.array,
        stored: Stored,
        seen: int,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
        prefix: Stored = (),
    ) -> mx.array:
        keys, values = first_tokens(stored, seen)
        if prefix:
            keys, values = mx.concatenate([prefix[0], keys], axis=2), mx.concatenate([prefix[1], values], axis=2)
        mask = plan.mask(keys.shape[2], rules)
        return attention(queries, keys, values, scale=rules.scale, mask=mask, sinks=sinks, softcap=rules.softcap)


def first_tokens(stored: Stored, count: int) -> Stored:
    """The first `count` tokens of arrays [B, Hkv, T, ...]."""
    return tuple(a if a.shape[2] == count else a[:, :, :count] for a in stored)
