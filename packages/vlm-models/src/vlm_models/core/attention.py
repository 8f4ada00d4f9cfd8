"""What the queries of one model call may see. Knows rows, offsets and blocks; not layers, keys or storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class AttentionRules:
    """What is fixed per layer.

    scale: factor on q.k. window: keys further back than this many positions (the query's own counted) are hidden.
    softcap: scores s become softcap * tanh(s / softcap). sees_blocks: tokens of one block see each other both ways,
    within the window unless blocks_beyond_window.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sees_blocks: bool = True
    blocks_beyond_window: bool = False


@dataclass(frozen=True)
class Attention:
    """The plan of one call: B rows of L queries each, the first at sequence index `offsets[b]`.

    A key at index j is seen by a query at index i of its row if j <= i, or if both are in the same block;
    and, in a layer with a window, only if j > i - window.

    offsets: int32 [B], tokens each row has in its cache before this call.
    start: the common offset, where all rows share it and the host knows it; lets a cache slice instead of mask.
    blocks: int32 [B, L], block id of each query (and of the key it brings), -1 for none. Blocks are never split over calls.
    """

    length: int
    offsets: mx.array
    start: int | None = None
    blocks: mx.array | None = None
    _masks: dict[Any, mx.array | str | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def at(cls, start: int, length: int, *, blocks: np.ndarray | None = None, batch: int = 1) -> Attention:
        """A plan whose rows all start at `start`. blocks: int32 [L] or None."""
        ids = None if blocks is None else mx.broadcast_to(mx.array(blocks)[None], (batch, length))
        return cls(length, mx.full((batch,), start, mx.int32), start, ids)

    @classmethod
    def ragged(cls, starts: Sequence[int], length: int) -> Attention:
        """A plan whose rows start where each stands."""
        same = len(set(starts)) == 1
        return cls(length, mx.array(list(starts), mx.int32), starts[0] if same else None)

    def mask(self, num_keys: int, rules: AttentionRules, *, first: int = 0) -> mx.array | str | None:
        """Mask over keys at sequence indices first .. first + num_keys - 1: None, "causal", or bool [B, 1, L, num_keys].

        "causal" means aligned to the lower right: the last query sees the last key. Keys beyond a row's end are hidden.
        """
        blocks = self.blocks if rules.sees_blocks else None
        aligned = self.start is not None and first + num_keys == self.start + self.length
        inside = rules.window is None or (self.start is not None and self.start + self.length - first <= rules.window)
        if aligned and inside and blocks is None:
            return None if self.length == 1 else "causal"
        beyond = rules.blocks_beyond_window and blocks is not None
        key = (num_keys, first, rules.window, blocks is not None, beyond)
        if key not in self._masks:
            self._masks[key] = self._build(num_keys, first, rules.window, blocks, beyond)
        return self._masks[key]

    def _build(self, num_keys: int, first: int, window: int | None, blocks: mx.array | None, beyond: bool) -> mx.array:
        queries = (self.offsets[:, None] + mx.arange(self.length))[:, :, None]
        keys = (mx.arange(num_keys) + first)[None, None, :]
        visible = keys <= queries
        near = True if window is None else keys > queries - window
        if blocks is not None:
            own = keys - self.offsets[:, None, None]
            fresh = (own >= 0) & (own < self.length)
            ids = mx.take_along_axis(blocks, mx.clip(own[:, 0, :], 0, self.length - 1), axis=1)
            together = (ids[:, None, :] == blocks[:, :, None]) & (blocks[:, :, None] >= 0) & fresh
            visible = (visible & near) | together if beyond else (visible | together) & near
        else:
            visible = visible & near
        return visible[:, None]
