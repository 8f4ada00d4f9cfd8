"""The first tokens of every row plain, all later ones stored by a codec.

Which form a token takes depends on its sequence index alone, so neither chunks nor neighbours change an answer.

      plain    t0 t1 .. t(start-1) | spill        packed    t(start) t(start+1) .. | spill

Rows that decode at different lengths write to both; what belongs to the other part lands in a spill slot, which is never seen.
The packed one is the last slot, so that attention may take the packed tokens from the store's beginning, without a copy.
"""

from __future__ import annotations

import mlx.core as mx

from vlm_models import Attention, AttentionRules

from ..errors import CapacityError
from .buckets import capacity_bucket
from .codec import Codec, PlainCodec, Stored
from .contiguous import own, scatter, widen


class SplitCache:
    """Keys and values of one full-attention layer: plain before index `start`, stored by a codec from there on."""

    def __init__(self, codec: Codec, start: int, batch: int = 1) -> None:
        self.codec, self.start, self.batch = codec, start, batch
        self.capacity = 0
        self.extent = 0
        self.plain: Stored = ()
        self.packed: Stored = ()

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
            self._write(keys, values, plan)
        if not self.plain:
            raise CapacityError("a layer attends over a cache that holds nothing; layers must run in order")
        seen = self.extent if plan.start is None else plan.start + plan.length
        keys, values = (a[:, :, : min(seen, self.start)] for a in self.plain)
        if seen <= self.start:
            return PlainCodec().attend(queries, (keys, values), seen, plan, rules, sinks)
        return self.codec.attend(queries, self.packed, seen - self.start, plan, rules, sinks, (keys, values))

    def _write(self, keys: mx.array, values: mx.array, plan: Attention) -> None:
        fresh, length = self.codec.encode(keys, values), plan.length
        self._allocate((keys, values), fresh, plan.start + length if plan.start is not None else self.extent)
        where = plan.offsets[:, None] + mx.arange(length)
        if plan.start is None or plan.start < self.start:
            self.plain = scatter(self.plain, (keys, values), mx.minimum(where, self.start))
        if plan.start is None or plan.start + length > self.start:
            spill = self._packed_size(self.capacity) - 1
            self.packed = scatter(self.packed, fresh, mx.where(where < self.start, spill, where - self.start))

    def _allocate(self, plain: Stored, packed: Stored, length: int) -> None:
        if not self.plain:
            self.capacity = max(self.capacity, capacity_bucket(length))
            self.plain = _zeros(plain, self.batch, self.start + 1)
            self.packed = _zeros(packed, self.batch, self._packed_size(self.capacity))
        self.reserve(self.batch, length)

    def _packed_size(self, capacity: int) -> int:
        return max(capacity - self.start, 0) + 1

    def reserve(self, batch: int, length: int) -> None:
        capacity = self.capacity if length <= self.capacity else capacity_bucket(length)
        if self.plain and (batch > self.batch or capacity > self.capacity):
            rows = max(batch - self.batch, 0)
            self.plain = widen(self.plain, rows, 0)
            self.packed = widen(self.packed, rows, self._packed_size(capacity) - self._packed_size(self.capacity))
        self.batch, self.capacity = max(batch, self.batch), capacity

    def join(self, row: int, single: SplitCache, length: int) -> None:
        self._allocate(single.plain, single.packed, length)
        for array, source in zip(self.plain, single.plain, strict=True):
            array[row : row + 1] = source
        count = self._packed_size(length)
        for array, source in zip(self.packed, single.packed, strict=True):
            array[row : row + 1, :, :count] = source[:, :, :count]

    def keep_rows(self, rows: list[int]) -> None:
        self.batch, index = len(rows), mx.array(rows)
        self.plain = tuple(mx.take(a, index, axis=0) for a in self.plain)
        self.packed = tuple(mx.take(a, index, axis=0) for a in self.packed)

    def extract(self, row: int, length: int) -> SplitCache:
        single = SplitCache(self.codec, self.start)
        single.capacity = max(length, self.start)
        count = self._packed_size(length)
        single.plain = tuple(own(a[row : row + 1]) for a in self.plain)
        single.packed = tuple(own(a[row : row + 1, :, :count]) for a in self.packed)
        return single

    def copy(self) -> SplitCache:
        other = SplitCache(self.codec, self.start, self.batch)
        other.capacity, other.extent = self.capacity, self.extent
        other.plain, other.packed = tuple(a[:] for a in self.plain), tuple(a[:] for a in self.packed)
        return other

    def can_trim(self, length: int, to: int) -> bool:
        return to <= length

    def trim(self, to: int) -> None:
        pass

    def settle(self) -> None:
        pass

    def arrays(self) -> list[mx.array]:
        return [*self.plain, *self.packed]

    def load(self, arrays: list[mx.array]) -> None:
        self.plain, self.packed = tuple(arrays[:2]), tuple(arrays[2:])

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays())


def _zeros(like: Stored, batch: int, tokens: int) -> Stored:
    return tuple(mx.zeros((batch, a.shape[1], tokens, *a.shape[3:]), a.dtype) for a in like)
