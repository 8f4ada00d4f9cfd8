"""Layers without a token axis: recurrent states, and the keys and values of a context."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import attention
from vlm_models import Attention, AttentionRules, Recurrent

from ..errors import CapacityError
from .contiguous import own


class RecurrentCache:
    """Named arrays [B, *shape], replaced at each call. Cannot be taken back by a token; a copy is a snapshot."""

    def __init__(self, spec: Recurrent, dtype: mx.Dtype, batch: int = 1) -> None:
        self.spec, self.dtype, self.batch = spec, dtype, batch
        self.extent = 0
        self.state = {
            name: mx.zeros((batch, *shape), spec.dtypes.get(name, dtype)) for name, shape in spec.shapes.items()
        }

    def read(self, name: str) -> mx.array:
        return self.state[name]

    def write(self, name: str, value: mx.array) -> None:
        self.state[name] = value

    def reserve(self, batch: int, length: int) -> None:
        if batch > self.batch:
            extra = batch - self.batch
            self.state = {n: mx.pad(a, [(0, extra)] + [(0, 0)] * (a.ndim - 1)) for n, a in self.state.items()}
            self.batch = batch

    def join(self, row: int, single: RecurrentCache, length: int) -> None:
        for name, array in self.state.items():
            array[row : row + 1] = single.state[name]

    def keep_rows(self, rows: list[int]) -> None:
        self.batch = len(rows)
        self.state = {name: mx.take(a, mx.array(rows), axis=0) for name, a in self.state.items()}

    def extract(self, row: int, length: int) -> RecurrentCache:
        single = RecurrentCache(self.spec, self.dtype, 0)
        single.batch = 1
        single.state = {name: own(a[row : row + 1]) for name, a in self.state.items()}
        return single

    def copy(self) -> RecurrentCache:
        other = RecurrentCache(self.spec, self.dtype, 0)
        other.batch, other.state = self.batch, {name: a[:] for name, a in self.state.items()}
        return other

    def can_trim(self, length: int, to: int) -> bool:
        return to == length

    def trim(self, to: int) -> None:
        pass

    def settle(self) -> None:
        pass

    def arrays(self) -> list[mx.array]:
        return list(self.state.values())

    def load(self, arrays: list[mx.array]) -> None:
        self.state = dict(zip(self.state, arrays, strict=True))

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.state.values())


class CrossCache:
    """Keys and values of each row's context [B, Hkv, S, D]; rows with shorter contexts are masked at their end."""

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.extent = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.mask: mx.array | None = None

    def fill(self, keys: mx.array, values: mx.array, mask: mx.array | None = None) -> None:
        """Set the context of a cache of one row. mask: bool, broadcastable to [1, 1, L, S]; None: all is seen."""
        self.keys, self.values = keys, values
        shape = (keys.shape[0], 1, 1, keys.shape[2])
        self.mask = mx.ones(shape, mx.bool_) if mask is None else mx.broadcast_to(mask, shape)

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
            raise CapacityError("cross attention before its context was encoded; call Model.encode_context first")
        return attention(
            queries, self.keys, self.values, scale=rules.scale, mask=self.mask, sinks=sinks, softcap=rules.softcap
        )

    def reserve(self, batch: int, length: int) -> None:
        if batch > self.batch:
            self._widen(batch - self.batch, 0)
            self.batch = batch

    def _widen(self, rows: int, tokens: int) -> None:
        if self.keys is not None and self.values is not None and self.mask is not None:
            pad = [(0, rows), (0, 0), (0, tokens), (0, 0)]
            self.keys, self.values = mx.pad(self.keys, pad), mx.pad(self.values, pad)
            self.mask = mx.pad(self.mask, [(0, rows), (0, 0), (0, 0), (0, tokens)])

    def join(self, row: int, single: CrossCache, length: int) -> None:
        if single.keys is None or single.values is None or single.mask is None:
            raise CapacityError("a row joins without its context; call Model.encode_context first")
        count = single.keys.shape[2]
        if self.keys is None or self.values is None or self.mask is None:
            _, heads, _, size = single.keys.shape
            self.keys = mx.zeros((self.batch, heads, count, size), single.keys.dtype)
            self.values = mx.zeros((self.batch, heads, count, single.values.shape[3]), single.values.dtype)
            self.mask = mx.zeros((self.batch, 1, 1, count), mx.bool_)
        self._widen(0, max(count - self.keys.shape[2], 0))
        self.keys[row : row + 1, :, :count] = single.keys
        self.values[row : row + 1, :, :count] = single.values
        self.mask[row : row + 1] = False
        self.mask[row : row + 1, :, :, :count] = single.mask

    def keep_rows(self, rows: list[int]) -> None:
        self.batch, index = len(rows), mx.array(rows)
        if self.keys is not None and self.values is not None and self.mask is not None:
            self.keys, self.values = mx.take(self.keys, index, axis=0), mx.take(self.values, index, axis=0)
            self.mask = mx.take(self.mask, index, axis=0)

    def extract(self, row: int, length: int) -> CrossCache:
        single = CrossCache()
        if self.keys is not None and self.values is not None and self.mask is not None:
            at = slice(row, row + 1)
            single.keys, single.values, single.mask = own(self.keys[at]), own(self.values[at]), own(self.mask[at])
        return single

    def copy(self) -> CrossCache:
        other = CrossCache(self.batch)
        if self.keys is not None and self.values is not None and self.mask is not None:
            other.keys, other.values, other.mask = self.keys[:], self.values[:], self.mask[:]
        return other

    def can_trim(self, length: int, to: int) -> bool:
        return True

    def trim(self, to: int) -> None:
        pass

    def settle(self) -> None:
        pass

    def arrays(self) -> list[mx.array]:
        return [a for a in (self.keys, self.values, self.mask) if a is not None]

    def load(self, arrays: list[mx.array]) -> None:
        if arrays:
            self.keys, self.values, self.mask = arrays

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays())
