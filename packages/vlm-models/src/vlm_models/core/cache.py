"""What a layer remembers: the specification a model declares, the protocol a layer may call, and plain caches.

The runtime builds its own caches (batched, in place, quantized) from the same specifications; the plain ones here serve
tests and `vlm_models.testing.logits`. A cache owns its storage *and* attends over it, so that packed storage never has to be
unpacked for a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import mlx.core as mx

from vlm_kernels import attention

from ..errors import ModelError
from .attention import Attention, AttentionRules


@dataclass(frozen=True)
class Full:
    """Every key and value. Sizes are per row: heads x size."""

    num_heads: int
    key_size: int
    value_size: int


@dataclass(frozen=True)
class Window:
    """Keys and values of the last `window` tokens."""

    window: int
    num_heads: int
    key_size: int
    value_size: int


@dataclass(frozen=True)
class Recurrent:
    """A state of fixed shape: name -> shape without the batch axis. Starts as zeros of `dtype` (None: the model's)."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, mx.Dtype] = field(default_factory=dict)


@dataclass(frozen=True)
class Cross:
    """Keys and values of a context, filled once by `Model.encode_context`."""

    num_heads: int
    key_size: int
    value_size: int


@dataclass(frozen=True)
class Shared:
    """No storage of its own: attends over the cache of an earlier layer."""

    layer: int


@dataclass(frozen=True)
class Several:
    """A layer with more than one cache, by name (a decoder layer with self and cross attention)."""

    parts: Mapping[str, CacheSpec]


CacheSpec = Full | Window | Recurrent | Cross | Shared | Several


class AttentionCache(Protocol):
    """What an attention layer may do with its cache."""

    def attend(
        self,
        queries: mx.array,
        keys: mx.array | None,
        values: mx.array | None,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Append keys and values at each row's offset, then attend. queries [B, H, L, D], keys [B, Hkv, L, D],
        values [B, Hkv, L, Dv] -> [B, H, L, Dv]. keys None: attend over what is stored (Shared, Cross)."""


class StateCache(Protocol):
    """What a recurrent layer may do with its cache. Arrays are [B, *shape]."""

    def read(self, name: str) -> mx.array: ...

    def write(self, name: str, value: mx.array) -> None: ...


class PlainCache:
    """Keys and values concatenated as they come. One row, or several that advance together."""

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.first = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def attend(
        self,
        queries: mx.array,
        keys: mx.array | None,
        values: mx.array | None,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if keys is not None and values is not None:
            self._append(keys, values)
        if self.keys is None or self.values is None:
            raise ModelError("a layer attends over a cache that holds nothing; layers must run in order")
        mask = plan.mask(self.keys.shape[2], rules, first=self.first)
        return attention(
            queries, self.keys, self.values, scale=rules.scale, mask=mask, sinks=sinks, softcap=rules.softcap
        )

    def _append(self, keys: mx.array, values: mx.array) -> None:
        if self.keys is not None and self.values is not None:
            kept = self.keys.shape[2]
            if self.window is not None and kept > self.window - 1:
                # only at the next append: layers that share this cache still need the whole chunk
                drop = kept - (self.window - 1)
                self.first += drop
                self.keys, self.values = self.keys[:, :, drop:], self.values[:, :, drop:]
            keys = mx.concatenate([self.keys, keys], axis=2)
            values = mx.concatenate([self.values, values], axis=2)
        self.keys, self.values = keys, values


class PlainCross:
    """Keys and values of a context; every query sees all of them (or those `mask` leaves)."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.mask: mx.array | None = None

    def fill(self, keys: mx.array, values: mx.array, mask: mx.array | None = None) -> None:
        self.keys, self.values, self.mask = keys, values, mask

    def attend(
        self,
        queries: mx.array,
        keys: mx.array | None,
        values: mx.array | None,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if self.keys is None or self.values is None:
            raise ModelError("cross attention before its context was encoded; call Model.encode_context first")
        return attention(
            queries, self.keys, self.values, scale=rules.scale, mask=self.mask, sinks=sinks, softcap=rules.softcap
        )


class PlainState:
    """Named arrays."""

    def __init__(self, spec: Recurrent, dtype: mx.Dtype, batch: int) -> None:
        self.arrays = {
            name: mx.zeros((batch, *shape), spec.dtypes.get(name, dtype)) for name, shape in spec.shapes.items()
        }

    def read(self, name: str) -> mx.array:
        return self.arrays[name]

    def write(self, name: str, value: mx.array) -> None:
        self.arrays[name] = value


LayerCache = PlainCache | PlainCross | PlainState | dict[str, "LayerCache"]


def plain_caches(specs: Sequence[CacheSpec], *, dtype: mx.Dtype = mx.float32, batch: int = 1) -> list[LayerCache]:
    """One plain cache per layer."""
    caches: list[LayerCache] = []
    for spec in specs:
        caches.append(_plain(spec, caches, dtype, batch))
    return caches


def _plain(spec: CacheSpec, earlier: Sequence[LayerCache], dtype: mx.Dtype, batch: int) -> LayerCache:
    match spec:
        case Full():
            return PlainCache()
        case Window():
            return PlainCache(spec.window)
        case Recurrent():
            return PlainState(spec, dtype, batch)
        case Cross():
            return PlainCross()
        case Shared():
            return earlier[spec.layer]
        case Several():
            return cast(LayerCache, {name: _plain(part, earlier, dtype, batch) for name, part in spec.parts.items()})
