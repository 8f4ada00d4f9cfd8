"""Keys and values in groups of small integers with a scale and a bias each (mx.quantize): the scheme `uniform`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from vlm_kernels import matmul, quantized_matmul
from vlm_models import Attention, AttentionRules

from ..errors import OptionError
from .codec import Stored, first_tokens

# Scores of one tile; bounds memory where a long chunk meets a long store.
MOST_SCORES = 1 << 24
SMALLEST_TILE = 256
# From so many queries a key head on, a tile is unpacked for a dense product; below, the packed product reads less.
DENSE_QUERIES = 16
_HIDDEN = -1e30
_CUDA = mx.cuda.is_available()


class AffineCodec:
    """`bits`-bit integers in groups of `group_size`. Attends tile by tile with a running softmax."""

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
        seen: int,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
        prefix: Stored = (),
    ) -> mx.array:
        stored = first_tokens(stored, seen)
        batch, heads, length, size = queries.shape
        num_heads, before = stored[0].shape[1], prefix[0].shape[2] if prefix else 0
        group = heads // num_heads
        mask = _as_array(plan.mask(before + seen, rules), length, before + seen)
        grouped = (queries * rules.scale).reshape(batch, num_heads, group * length, size)
        running = _Softmax.start(sinks, (batch, num_heads, group, length))
        for first, tile in self._tiles(prefix, stored, batch * heads * length):
            count = tile.count
            scores = tile.scores(grouped).astype(mx.float32).reshape(batch, num_heads, group, length, count)
            if rules.softcap is not None:
                scores = mx.tanh(scores / rules.softcap) * rules.softcap
            if mask is not None:
                scores = mx.where(mask[..., first : first + count][:, :, None], scores, _HIDDEN)
            running = running.add(scores, tile.values, queries.dtype)
        return running.result().reshape(batch, heads, length, -1).astype(queries.dtype)

    def _tiles(self, prefix: Stored, stored: Stored, num_queries: int) -> Iterator[tuple[int, _Tile]]:
        """Stretches of keys and values with the index of their first token."""
        at = 0
        if prefix:
            keys, values = prefix
            yield 0, _Tile(keys.shape[2], lambda q: matmul(q, keys.swapaxes(-1, -2)), lambda w: matmul(w, values))
            at = keys.shape[2]
        total = stored[0].shape[2]
        tile = max(SMALLEST_TILE, MOST_SCORES // num_queries)
        dense = num_queries // (stored[0].shape[0] * stored[0].shape[1]) >= DENSE_QUERIES
        for first in range(0, total, tile):
            part = tuple(a[:, :, first : first + tile] for a in stored) if total > tile else stored
            yield at + first, self._packed(part, dense=dense)

    def _packed(self, part: Stored, *, dense: bool) -> _Tile:
        (kq, ks, kb), (vq, vs, vb) = part[:3], part[3:]
        bits, size = self.bits, self.group_size
        if dense:
            keys = mx.dequantize(kq, ks, kb, group_size=size, bits=bits)
            values = mx.dequantize(vq, vs, vb, group_size=size, bits=bits)
            return _Tile(keys.shape[2], lambda q: matmul(q, keys.swapaxes(-1, -2)), lambda w: matmul(w, values))
        if _CUDA and mx.default_device().type == mx.DeviceType.gpu:
            # MLX's packed product on CUDA takes no cut of a larger array
            (kq, ks, kb), (vq, vs, vb) = map(mx.contiguous, (kq, ks, kb)), map(mx.contiguous, (vq, vs, vb))
        return _Tile(
            kq.shape[2],
            lambda q: quantized_matmul(q, kq, ks, kb, transpose=True, group_size=size, bits=bits),
            lambda w: quantized_matmul(w, vq, vs, vb, transpose=False, group_size=size, bits=bits),
        )


@dataclass(frozen=True)
class _Tile:
    """count keys. scores: queries [B, Hkv, n, D] -> [B, Hkv, n, count]; values: weights [B, Hkv, n, count] -> [B, Hkv, n, Dv]."""

    count: int
    scores: Callable[[mx.array], mx.array]
    values: Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class _Softmax:
    """A softmax-weighted sum over tiles so far. top, total: float32 [B, Hkv, G, L, 1]; sum: [B, Hkv, G, L, Dv]."""

    top: mx.array
    total: mx.array
    sum: mx.array | None = None

    @classmethod
    def start(cls, sinks: mx.array | None, shape: tuple[int, int, int, int]) -> _Softmax:
        if sinks is None:
            return cls(mx.full((*shape, 1), _HIDDEN), mx.zeros((*shape, 1)))
        sink = sinks.astype(mx.float32).reshape(1, shape[1], shape[2], 1, 1)
        return cls(mx.broadcast_to(sink, (*shape, 1)), mx.ones((*shape, 1)))

    def add(self, scores: mx.array, values: Callable[[mx.array], mx.array], dtype: mx.Dtype) -> _Softmax:
        batch, heads, group, length, count = scores.shape
        top = mx.maximum(self.top, mx.max(scores, axis=-1, keepdims=True))
        weights, shrink = mx.exp(scores - top), mx.exp(self.top - top)
        part = values(weights.astype(dtype).reshape(batch, heads, group * length, count)).astype(mx.float32)
        part = part.reshape(batch, heads, group, length, -1)
        total = self.total * shrink + mx.sum(weights, axis=-1, keepdims=True)
        return _Softmax(top, total, part if self.sum is None else self.sum * shrink + part)

    def result(self) -> mx.array:
        if self.sum is None:
            raise ValueError("attention over no keys")
        return self.sum / self.total


def _as_array(mask: mx.array | str | None, length: int, num_keys: int) -> mx.array | None:
    """A mask as bool [B or 1, 1, L, num_keys]."""
    if isinstance(mask, str):
        return (mx.arange(num_keys) <= mx.arange(length)[:, None] + (num_keys - length))[None, None]
    return mask
