"""Every token of every row, at its sequence index: arrays [B, Hkv, capacity, ...], written in place.

row 0   k0 k1 k2 k3 k4 .. .. ..      length 5
row 1   k0 k1 k2 .. .. .. .. ..      length 3: what lies beyond a row's length is never seen
"""

from __future__ import annotations

import mlx.core as mx

from vlm_models import Attention, AttentionRules

from ..errors import CapacityError
from .buckets import capacity_bucket
from .codec import Codec, Stored


class ContiguousCache:
    """Keys and values of one full-attention layer, stored by a codec.

    `extent` is how many tokens decoding rows look at where they stand at different lengths; the runner keeps it at or above
    the longest row.
    """

    def __init__(self, codec: Codec, batch: int = 1) -> None:
        self.codec = codec
        self.batch = batch
        self.capacity = 0
        self.extent = 0
        self.stored: Stored = ()

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
            self._write(self.codec.encode(keys, values), plan)
        if not self.stored:
            raise CapacityError("a layer attends over a cache that holds nothing; layers must run in order")
        seen = self.extent if plan.start is None else plan.start + plan.length
        return self.codec.attend(queries, self.stored, seen, plan, rules, sinks)

    def _write(self, fresh: Stored, plan: Attention) -> None:
        length = plan.length
        self._allocate(fresh, plan.start + length if plan.start is not None else self.extent)
        if plan.start is not None:
            at = plan.start
            for array, new in zip(self.stored, fresh, strict=True):
                array[:, :, at : at + length] = new
            return
        self.stored = scatter(self.stored, fresh, plan.offsets[:, None] + mx.arange(length))

    def _allocate(self, like: Stored, length: int) -> None:
        if not self.stored:
            self.capacity = max(self.capacity, capacity_bucket(length))
            self.stored = tuple(mx.zeros((self.batch, a.shape[1], self.capacity, *a.shape[3:]), a.dtype) for a in like)
        self.reserve(self.batch, length)

    def reserve(self, batch: int, length: int) -> None:
        """Make room for so many rows and tokens; what is stored stays."""
        capacity = self.capacity if length <= self.capacity else capacity_bucket(length)
        if self.stored and (batch > self.batch or capacity > self.capacity):
            self.stored = widen(self.stored, max(batch - self.batch, 0), capacity - self.capacity)
        self.batch, self.capacity = max(batch, self.batch), capacity

    def join(self, row: int, single: ContiguousCache, length: int) -> None:
        """Copy the first `length` tokens of a cache of one row into a row."""
        self._allocate(single.stored, length)
        for array, source in zip(self.stored, single.stored, strict=True):
            array[row : row + 1, :, :length] = source[:, :, :length]

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""
        self.batch = len(rows)
        self.stored = tuple(mx.take(a, mx.array(rows), axis=0) for a in self.stored)

    def extract(self, row: int, length: int) -> ContiguousCache:
        """A cache of one row with the first `length` tokens of a row."""
        single = ContiguousCache(self.codec)
        single.capacity = length
        single.stored = tuple(own(a[row : row + 1, :, :length]) for a in self.stored)
        return single

    def copy(self) -> ContiguousCache:
        """Another cache with the same content; arrays are shared until one of them writes."""
        other = ContiguousCache(self.codec, self.batch)
        other.capacity, other.extent, other.stored = self.capacity, self.extent, tuple(a[:] for a in self.stored)
        return other

    def can_trim(self, length: int, to: int) -> bool:
        return to <= length

    def trim(self, to: int) -> None:
        """Nothing to do: what lies beyond a row's length is overwritten before it is seen."""

    def settle(self) -> None:
        pass

    def arrays(self) -> list[mx.array]:
        return list(self.stored)

    def load(self, arrays: list[mx.array]) -> None:
        self.stored = tuple(arrays)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.stored)


def widen(arrays: Stored, rows: int, tokens: int) -> Stored:
    """Arrays [B, Hkv, T, ...] with more rows and more tokens, zeros in the new places."""
    return tuple(mx.pad(a, [(0, rows), (0, 0), (0, tokens)] + [(0, 0)] * (a.ndim - 3)) for a in arrays)


def scatter(arrays: Stored, fresh: Stored, where: mx.array) -> Stored:
    """Write fresh [B, Hkv, L, ...] at token slots where [B, L] of each row."""

    def put(array: mx.array, new: mx.array) -> mx.array:
        slots = where.reshape(where.shape[0], 1, -1, *[1] * (new.ndim - 3))
        return mx.put_along_axis(array, mx.broadcast_to(slots, new.shape), new, axis=2)

    return tuple(put(array, new) for array, new in zip(arrays, fresh, strict=True))


def own(row: mx.array) -> mx.array:
    """A copy of an array [1, ...] cut out of a larger one, which would live on as long as its cut does."""
    return mx.take(row, mx.zeros((1,), mx.int32), axis=0)
