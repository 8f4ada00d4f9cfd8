"""Guess the next tokens cheaply and let the model check them all in one call. What comes out is what would have come anyway.

A drafter proposes tokens for each row; the engine runs the model over them at once, draws at each place as it would have
drawn, and keeps what agrees. Whatever a drafter proposes, only speed depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Protocol

import mlx.core as mx
import numpy as np

from vlm_models import Model

from ..cache import CacheOptions, VisionFeatureCache
from ..errors import OptionError
from .runner import Runner
from .sequence import Sequence

MOST_DRAFTS = 15
CHUNK = 2048


class Drafter(Protocol):
    """Proposes tokens. Rows are those of the engine's batch, by slot."""

    num_drafts: int

    def join(self, slot: int, sequence: Sequence, num_slots: int) -> None:
        """A sequence got a slot; its prompt and first token are known."""

    def keep_slots(self, slots: list[int], num_slots: int) -> None:
        """Only these slots remain, renumbered in this order, in a batch of `num_slots`."""

    def propose(self, rows: Items[Sequence | None], most: Items[int]) -> list[list[int]]:
        """At most most[slot] tokens that may follow each row."""


class PromptLookup:
    """Proposes what followed the last time the same few tokens stood in prompt or answer.

    Args:
        num_drafts: most tokens proposed.
        longest, shortest: lengths of the run of last tokens that is looked up, longest first.
    """

    def __init__(self, num_drafts: int = 4, longest: int = 4, shortest: int = 2) -> None:
        self.num_drafts = _checked(num_drafts)
        self.longest, self.shortest = longest, shortest

    def join(self, slot: int, sequence: Sequence, num_slots: int) -> None:
        pass

    def keep_slots(self, slots: list[int], num_slots: int) -> None:
        pass

    def propose(self, rows: Items[Sequence | None], most: Items[int]) -> list[list[int]]:
        return [
            self._look_up(row, count) if row is not None and count > 0 else []
            for row, count in zip(rows, most, strict=True)
        ]

    def _look_up(self, row: Sequence, count: int) -> list[int]:
        tokens = np.concatenate([row.prompt.tokens, np.asarray(row.tokens, np.int32)])
        for size in range(self.longest, self.shortest - 1, -1):
            if len(tokens) <= size:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(tokens[:-1], size)
            found = np.flatnonzero((windows == tokens[-size:]).all(axis=1))
            if len(found):
                after = int(found[-1]) + size
                return tokens[after : after + count].tolist()
        return []


class DraftModel:
    """Proposes what a smaller model of the same tokenizer would say; it sees the same media.

    Args:
        model: the smaller model.
        num_drafts: tokens proposed.
    """

    def __init__(self, model: Model, num_drafts: int = 4) -> None:
        self.num_drafts = _checked(num_drafts)
        self.runner = Runner(model, CacheOptions(), "draft")
        check_speculation(self.runner)
        self._features = VisionFeatureCache()
        self._cached: list[int] = []

    def join(self, slot: int, sequence: Sequence, num_slots: int) -> None:
        self._resize(num_slots)
        prompt = sequence.prompt
        work = self.runner.begin(prompt)
        while not self.runner.encode(work, self._features, CHUNK):
            pass
        while work.done < len(prompt):
            self.runner.prefill(work, prompt.legal_cut(min(work.done + CHUNK, len(prompt))))
        self.runner.join(slot, work)
        self._cached[slot] = len(prompt)

    def keep_slots(self, slots: list[int], num_slots: int) -> None:
        self.runner.keep_slots(slots)
        self._cached = [self._cached[slot] for slot in slots]
        self._resize(num_slots)

    def _resize(self, num_slots: int) -> None:
        self.runner.room_for(num_slots)
        self._cached += [0] * (self.runner.num_slots - len(self._cached))

    def propose(self, rows: Items[Sequence | None], most: Items[int]) -> list[list[int]]:
        active = [row if row is not None and count > 0 else None for row, count in zip(rows, most, strict=True)]
        if not any(row is not None for row in active):
            return [[] for _ in rows]
        last = self._catch_up(active)
        drafts = [last]
        starts = [0 if row is None else row.length for row in active]
        deltas = [0 if row is None else row.prompt.position_delta for row in active]
        adapters = [None if row is None else row.adapter for row in active]
        for step in range(1, min(self.num_drafts, max(most))):
            logits = self.runner.decode(drafts[-1], [start + step - 1 for start in starts], deltas, adapters)
            drafts.append(mx.argmax(logits, axis=-1).astype(mx.int32))
        table = np.asarray(mx.stack(drafts, axis=1))
        return [[] if row is None else table[slot, : most[slot]].tolist() for slot, row in enumerate(active)]

    def _catch_up(self, rows: Items[Sequence | None]) -> mx.array:
        """Run the tokens that rows have and the smaller model has not seen; its guess of the next one, [B]."""
        missing = [[] if row is None else _all_tokens(row)[self._cached[slot] :] for slot, row in enumerate(rows)]
        width = max(len(tokens) for tokens in missing)
        table = np.zeros((len(rows), width), np.int32)
        for slot, tokens in enumerate(missing):
            table[slot, : len(tokens)] = tokens
        starts = [self._cached[slot] for slot in range(len(rows))]
        deltas = [0 if row is None else row.prompt.position_delta for row in rows]
        adapters = [None if row is None else row.adapter for row in rows]
        logits = self.runner.verify(mx.array(table), starts, deltas, adapters)
        at = mx.array([max(len(tokens) - 1, 0) for tokens in missing])[:, None, None]
        for slot, row in enumerate(rows):
            if row is not None:
                self._cached[slot] = row.length
        return mx.argmax(mx.take_along_axis(logits, at, axis=1)[:, 0], axis=-1).astype(mx.int32)


def _all_tokens(row: Sequence) -> list[int]:
    return [*row.prompt.tokens.tolist(), *row.tokens]


def _checked(num_drafts: int) -> int:
    if isinstance(num_drafts, bool) or not isinstance(num_drafts, int) or not 1 <= num_drafts <= MOST_DRAFTS:
        raise OptionError(f"num_draft_tokens: expected a whole number from 1 to {MOST_DRAFTS}, got {num_drafts!r}")
    return num_drafts


def check_speculation(runner: Runner) -> None:
    """Raise OptionError for models whose rows cannot be taken back, or whose input is more than the last token."""
    if not runner.caches.can_trim(1 << 20, (1 << 20) - MOST_DRAFTS):
        raise OptionError("speculation: a model with recurrent layers cannot take tokens back; leave speculation out")
    if type(runner.model).feedback is not Model.feedback:
        raise OptionError("speculation: this model feeds back more than its last token; leave speculation out")
