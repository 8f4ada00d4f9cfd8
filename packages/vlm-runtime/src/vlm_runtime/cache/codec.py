"""How keys and values are stored, and attention over what is stored. Knows arrays along a token axis; no rows, no slots.

A codec turns keys [B, Hkv, L, D] and values [B, Hkv, L, Dv] into a tuple of arrays [B, Hkv, L, ...], which a layout keeps,
slices and copies without knowing what they mean, and attends over such a tuple. Attention never unpacks a whole store.
"""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

from vlm_kernels import attention
from vlm_models import Attention, AttentionRules

from ..errors import OptionError

Stored = tuple[mx.array, ...]

# Scores of one tile of queries; bounds memory where a long chunk meets a long store.
MOST_SCORES = 1 << 26


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
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
        prefix: Stored = (),
    ) -> mx.array:
        """Attention of queries [B, H, L, D] over n stored tokens with sequence indices 0 .. n - 1, masked by the plan.

        prefix: plain keys and values of p tokens that come before; the stored ones then are p .. p + n - 1."""

    def num_bytes(self, num_heads: int, key_size: int, value_size: int, item_size: int) -> float:
        """Bytes per token and row."""


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
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
        prefix: Stored = (),
    ) -> mx.array:
        keys, values = stored
        if prefix:
            keys, values = mx.concatenate([prefix[0], keys], axis=2), mx.concatenate([prefix[1], values], axis=2)
        mask = plan.mask(keys.shape[2], rules)
        return attention(queries, keys, values, scale=rules.scale, mask=mask, sinks=sinks, softcap=rules.softcap)

    def num_bytes(self, num_heads: int, key_size: int, value_size: int, item_size: int) -> float:
        return num_heads * (key_size + value_size) * item_size


class AffineCodec:
    """Keys and values in groups of `bits`-bit integers with a scale and a bias each (mx.quantize).

    The attention multiplies by the packed arrays; queries are tiled so that scores stay within a bound.
    """

    def __init__(self, bits: int, group_size: int = 64) -> None:
        if bits not in (2, 3, 4, 6, 8):
            raise OptionError(f"kv_bits: expected 2, 3, 4, 6 or 8 for the uniform scheme, got {bits}")
        if group_size not in (32, 64, 128):
            raise OptionError(f"kv_group_size: expected 32, 64 or 128, got {group_size}")
        self.bits, self.group_size = bits, group_size

    def check(self, key_size: int, value_size: int) -> None:
        for size in (key_size, value_size):
            if size % self.group_size:
                fitting = [g for g in (128, 64, 32) if size % g == 0]
                hint = f"use kv_group_size={fitting[0]}" if fitting else "these heads cannot be quantized"
                raise OptionError(f"kv_group_size: {self.group_size} does not divide the head size {size}; {hint}")

    def encode(self, keys: mx.array, values: mx.array) -> Stored:
        return (
            *mx.quantize(keys, group_size=self.group_size, bits=self.bits),
            *mx.quantize(values, group_size=self.group_size, bits=self.bits),
        )

    def attend(
        self,
        queries: mx.array,
        stored: Stored,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
        prefix: Stored = (),
    ) -> mx.array:
        batch, heads, length, _ = queries.shape
        num_keys = stored[0].shape[2] + (prefix[0].shape[2] if prefix else 0)
        mask = plan.mask(num_keys, rules)
        if isinstance(mask, str):
            mask = (mx.arange(num_keys) <= mx.arange(length)[:, None] + (num_keys - length))[None, None]
        tile = max(1, MOST_SCORES // (batch * heads * num_keys))
        parts = []
        for at in range(0, length, tile):
            visible = None if mask is None else mask[:, :, at : at + tile]
            parts.append(self._tile(queries[:, :, at : at + tile], stored, prefix, visible, rules, sinks))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)

    def _tile(
        self,
        queries: mx.array,
        stored: Stored,
        prefix: Stored,
        mask: mx.array | None,
        rules: AttentionRules,
        sinks: mx.array | None,
    ) -> mx.array:
        keys, values = stored[:3], stored[3:]
        batch, heads, length, size = queries.shape
        num_heads = keys[0].shape[1]
        group = heads // num_heads
        form = {"group_size": self.group_size, "bits": self.bits}
        grouped = (queries * rules.scale).reshape(batch, num_heads, group * length, size)
        scores = mx.quantized_matmul(grouped, *keys, transpose=True, **form)
        if prefix:
            scores = mx.concatenate([grouped @ prefix[0].swapaxes(-1, -2), scores], axis=-1)
        scores = scores.astype(mx.float32).reshape(batch, num_heads, group, length, -1)
        if rules.softcap is not None:
            scores = mx.tanh(scores / rules.softcap) * rules.softcap
        if mask is not None:
            scores = mx.where(mask[:, :, None], scores, mx.finfo(mx.float32).min)
        if sinks is not None:
            column = sinks.astype(mx.float32).reshape(1, num_heads, group, 1, 1)
            scores = mx.concatenate([mx.broadcast_to(column, (*scores.shape[:-1], 1)), scores], axis=-1)
        weights = mx.softmax(scores, axis=-1, precise=True)
        if sinks is not None:
            weights = weights[..., 1:]
        weights = weights.astype(queries.dtype).reshape(batch, num_heads, group * length, -1)
        plain = prefix[0].shape[2] if prefix else 0
        out = mx.quantized_matmul(weights[..., plain:], *values, transpose=False, **form)
        if prefix:
            out = out + weights[..., :plain] @ prefix[1]
        return out.reshape(batch, heads, length, out.shape[-1])

    def num_bytes(self, num_heads: int, key_size: int, value_size: int, item_size: int) -> float:
        per_value = self.bits / 8 + 2 * item_size / self.group_size
        return num_heads * (key_size + value_size) * per_value
