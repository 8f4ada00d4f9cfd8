"""The last tokens of every row, in a ring of slots; the plain form of sliding-window layers, and of `max_kv_size`.

      keep = 2, ring of 5:   slot  0  1 | 2  3  4  5  6
                             index 0  1 | 7  8  9  5  6      after ten tokens

A row's first `keep` tokens stay; index j beyond them is in slot keep + (j - keep) mod ring. The ring is longer than the window
by SLACK, so that a few of the last tokens can be taken back without losing what they displaced.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np

from vlm_kernels import attention
from vlm_models import Attention, AttentionRules

from ..errors import CapacityError
from .buckets import capacity_bucket
from .codec import Stored
from .contiguous import own, scatter, widen

SLACK = 16


class RingCache:
    """Keys and values of the last `window` tokens, the first `keep` of a row always among them."""

    def __init__(self, window: int, keep: int = 0, batch: int = 1) -> None:
        self.window, self.keep, self.batch = window, keep, batch
        self.size = window + SLACK
        self.capacity = 0
        self.extent = 0
        self.stored: Stored = ()
        self._chunk: tuple[Stored, mx.array | str | None] | None = None

    def attend(
        self,
        queries: mx.array,
        keys: mx.array | None,
        values: mx.array | None,
        plan: Attention,
        rules: AttentionRules,
        sinks: mx.array | None = None,
    ) -> mx.array:
        rules = replace(rules, window=self.window)
        if keys is not None and values is not None:
            self._chunk = None
            if plan.length > SLACK + 1:
                self._chunk = self._long(keys, values, plan, rules)
            else:
                self._short(keys, values, plan)
        if self._chunk is not None:
            (keys, values), mask = self._chunk
        elif self.stored:
            keys, values = self.stored
            mask = self._mask(plan, rules)
        else:
            raise CapacityError("a layer attends over a cache that holds nothing; layers must run in order")
        return attention(queries, keys, values, scale=rules.scale, mask=mask, sinks=sinks, softcap=rules.softcap)

    def _slot(self, index: mx.array) -> mx.array:
        turning = self.keep + (index - self.keep) % (self.size - self.keep)
        return mx.where(index < self.keep, index, turning)

    def _short(self, keys: mx.array, values: mx.array, plan: Attention) -> None:
        """A few tokens: written into the ring, which the queries then see whole."""
        last = plan.start + plan.length if plan.start is not None else self.extent
        self._allocate((keys, values), last)
        self.stored = scatter(self.stored, (keys, values), self._slot(plan.offsets[:, None] + mx.arange(plan.length)))

    def _mask(self, plan: Attention, rules: AttentionRules) -> mx.array:
        """Which ring slots each query sees; the same for all layers of one window, so it is kept in the plan."""
        slots = self.stored[0].shape[2]
        key = ("ring", slots, self.window, self.keep, plan.blocks is not None and rules.sees_blocks)
        mask = plan._masks.get(key)
        if not isinstance(mask, mx.array):
            mask = plan._masks[key] = self._build(slots, plan, rules)
        return mask

    def _build(self, slots: int, plan: Attention, rules: AttentionRules) -> mx.array:
        last = (plan.offsets + (plan.length - 1))[:, None]
        slot = mx.arange(slots)[None]
        ring = self.size - self.keep
        # the newest index that fell into the slot; negative where none has
        newest = last - (last - slot) % ring
        held = mx.where(slot < self.keep, slot, mx.where(newest < self.keep, -1, newest))[:, None, :]
        return self._visible(held, plan, rules)

    def _visible(self, held: mx.array, plan: Attention, rules: AttentionRules) -> mx.array:
        """bool [B, 1, L, K] for keys whose sequence indices are held [B, 1, K], negative for none."""
        queries = (plan.offsets[:, None] + mx.arange(plan.length))[:, :, None]
        seen = held <= queries
        if plan.blocks is not None and rules.sees_blocks:
            own = held - plan.offsets[:, None, None]
            ids = mx.take_along_axis(plan.blocks, mx.clip(own[:, 0], 0, plan.length - 1), axis=1)[:, None]
            blocks = plan.blocks[:, :, None]
            seen = seen | ((own >= 0) & (own < plan.length) & (ids == blocks) & (blocks >= 0))
        recent = (held > queries - (self.window - self.keep)) | (held < self.keep)
        return (seen & recent & (held >= 0))[:, None]

    def _long(
        self, keys: mx.array, values: mx.array, plan: Attention, rules: AttentionRules
    ) -> tuple[Stored, mx.array | str | None]:
        """A chunk of one row: attends over what came before in its order, then the chunk; the ring keeps the end."""
        if plan.start is None:
            raise CapacityError(f"a chunk of {plan.length} tokens needs rows that stand at one length")
        start, stop = plan.start, plan.start + plan.length
        reach = self.window - self.keep
        first = max(min(self.keep, start), start - (reach - 1))
        before = np.concatenate([np.arange(min(self.keep, start)), np.arange(first, start)]).astype(np.int32)
        fresh: Stored = (keys, values)
        if len(before):
            slots = self._slot(mx.array(before))
            old = tuple(mx.take(a, slots, axis=2) for a in self.stored)
            whole: Stored = tuple(mx.concatenate([a, b], axis=2) for a, b in zip(old, fresh, strict=True))
        else:
            whole = fresh
        self._allocate(fresh, stop)
        kept = sorted({*range(start, min(self.keep, stop)), *range(max(start, stop - (self.size - self.keep)), stop)})
        where = mx.array(np.asarray(kept, np.int32))
        parts = tuple(mx.take(a, where - start, axis=2) for a in fresh)
        self.stored = scatter(self.stored, parts, mx.broadcast_to(self._slot(where)[None], (keys.shape[0], len(kept))))
        if self.keep == 0:
            return whole, plan.mask(whole[0].shape[2], rules, first=first if len(before) else start)
        held = mx.concatenate([mx.array(before), mx.arange(start, stop)])[None, None, :]
        return whole, self._visible(held, plan, rules)

    def _allocate(self, like: Stored, length: int) -> None:
        if not self.stored:
            self.capacity = max(self.capacity, min(self.size, capacity_bucket(length)))
            self.stored = tuple(mx.zeros((self.batch, a.shape[1], self.capacity, *a.shape[3:]), a.dtype) for a in like)
        self.reserve(self.batch, length)

    def reserve(self, batch: int, length: int) -> None:
        # below its full size the ring has not turned yet, so that it may grow at its end
        capacity = self.capacity if length <= self.capacity else min(self.size, capacity_bucket(length))
        if self.stored and (batch > self.batch or capacity > self.capacity):
            self.stored = widen(self.stored, max(batch - self.batch, 0), capacity - self.capacity)
        self.batch, self.capacity = max(batch, self.batch), max(capacity, self.capacity)

    def join(self, row: int, single: RingCache, length: int) -> None:
        count = min(length, self.size)
        self._allocate(single.stored, length)
        for array, source in zip(self.stored, single.stored, strict=True):
            array[row : row + 1, :, :count] = source[:, :, :count]

    def keep_rows(self, rows: list[int]) -> None:
        self.batch = len(rows)
        self.stored = tuple(mx.take(a, mx.array(rows), axis=0) for a in self.stored)

    def extract(self, row: int, length: int) -> RingCache:
        single = RingCache(self.window, self.keep)
        single.capacity = min(length, self.size)
        single.stored = tuple(own(a[row : row + 1, :, : single.capacity]) for a in self.stored)
        return single

    def copy(self) -> RingCache:
        other = RingCache(self.window, self.keep, self.batch)
        other.capacity, other.extent, other.stored = self.capacity, self.extent, tuple(a[:] for a in self.stored)
        return other

    def can_trim(self, length: int, to: int) -> bool:
        return to <= length and (length <= self.size or length - to <= SLACK)

    def trim(self, to: int) -> None:
        """Nothing to do: slots beyond a row's length are recognised by the length."""

    def settle(self) -> None:
        """The call is over: layers that share this cache have seen the chunk."""
        self._chunk = None

    def arrays(self) -> list[mx.array]:
        return list(self.stored)

    def load(self, arrays: list[mx.array]) -> None:
        self.stored = tuple(arrays)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.stored)
