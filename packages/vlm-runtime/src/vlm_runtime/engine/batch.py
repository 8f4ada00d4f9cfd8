"""The rows that decode together: who sits in which slot, the step in flight, drafts and their check.

On a GPU decoding runs one step ahead of the host: the next step is queued before the tokens of the last one are read, unless a
row's next token depends on what the host makes of them. Knows sequences and arrays; not requests, queues or events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from ..cache.buckets import batch_bucket
from ..request import TokenLogprob
from .runner import Prefill, Runner
from .sampler import Row, Sampled, sample
from .sequence import Sequence
from .speculation import Drafter

# MLX writes in place only into buffers that no queued work reads. A step ahead therefore copies the caches, which pays while
# they are small: this much takes about 0.1 ms on a GPU that moves 4 TB/s, and the host's gap between steps is longer.
AHEAD_BYTES = 256 << 20


class Owner(Protocol):
    """What the batch asks of the engine. Nothing here raises; a sequence may be finished when it returns."""

    def most_tokens(self, sequence: Sequence) -> int:
        """Tokens its answer may have."""

    def take(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> None:
        """A token was drawn for it."""

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """It cannot go on, and neither can its siblings."""

    def grew(self, sequences: Iterable[Sequence], tokens: int) -> None:
        """So many more tokens of them are in the caches."""


@dataclass(eq=False)
class Flight:
    """A decode step on the device whose tokens the host has not read."""

    rows: list[Sequence | None]
    sampled: Sampled


class Batch:
    """Slots of the runner and the sequences in them.

    Args:
        runner: runs the model; its slots are this batch's.
        owner: hears of tokens and failures.
        drafter: proposes tokens; None: no speculation.
        runs_ahead: see `EngineOptions`.
    """

    def __init__(self, runner: Runner, owner: Owner, drafter: Drafter | None, runs_ahead: bool | None) -> None:
        self.runner, self.owner, self.drafter, self._ahead = runner, owner, drafter, runs_ahead
        self.drafted = self.accepted = 0
        self._slots: list[Sequence | None] = []
        self._flight: Flight | None = None

    def enter(self, sequence: Sequence, work: Prefill) -> None:
        """Give a sequence a slot, with the caches of its prefill."""
        free = next((slot for slot, row in enumerate(self._slots) if row is None), len(self._slots))
        if free >= self.runner.num_slots:
            self.runner.room_for(free + 1)
        self._slots += [None] * (self.runner.num_slots - len(self._slots))
        self.runner.join(free, work)
        self._slots[free] = sequence
        sequence.slot, sequence.cached = free, work.done
        if self.drafter is not None:
            self.drafter.join(free, sequence, self.runner.num_slots)

    def vacate(self, sequence: Sequence) -> None:
        """Take a sequence's slot back."""
        if sequence.slot is not None:
            self._slots[sequence.slot] = None
            sequence.slot, sequence.cached = None, 0

    def reset(self) -> None:
        """Nobody is left: forget the step in flight and give back all storage."""
        self._flight = None
        self._shrink()

    def step(self) -> None:
        """Queue the next decode step, and read the last one."""
        if self._flight is not None and (self._must_read() or self._can_shrink()):
            self.read()
        self._shrink()
        if self.drafter is not None and self._speculate(self.drafter):
            return
        flight, self._flight = self._flight, None
        try:
            launched = self._launch(flight)
        except Exception as error:  # noqa: BLE001 - a failed batch ends its rows; the engine and the queue live on
            self._fail_rows(error)
            return
        self._flight = flight
        self.read()
        self._flight = launched if any(row is not None for row in self._slots) else None
        if not self._runs_ahead():
            self.read()

    def read(self) -> None:
        """Wait for the step in flight, if there is one, and hand out its tokens."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        try:
            tokens, logprobs = flight.sampled.read()
        except Exception as error:  # noqa: BLE001 - see step
            self._fail_rows(error)
            return
        for row, token, logprob in zip(flight.rows, tokens, logprobs, strict=True):
            if row is not None and not row.is_finished:
                self.owner.take(row, token, logprob)

    # one token a row ---------------------------------------------------------------------------------------------------

    def _launch(self, flight: Flight | None) -> Flight | None:
        """Queue a step for every row that takes another token; rows in flight feed theirs on the device."""
        before = flight.rows if flight is not None else []
        slots = list(self._slots)
        pending = [row is not None and slot < len(before) and before[slot] is row for slot, row in enumerate(slots)]
        draws: list[Row | None] = [None] * len(slots)
        for slot, row in enumerate(slots):
            if row is None or row.is_finished or len(row.tokens) + pending[slot] >= self.owner.most_tokens(row):
                continue
            if row.outgrows(pending[slot]):
                continue  # the owner has it computed anew
            try:
                draws[slot] = row.row(is_pending=pending[slot])
            except Exception as error:  # noqa: BLE001 - a grammar's failure is its request's
                self.owner.fail(row, error)
        # a failure takes its siblings along, also those that were looked at before
        rows = [
            row if draw is not None and row is not None and not row.is_finished else None
            for row, draw in zip(slots, draws, strict=True)
        ]
        active = [row for row in rows if row is not None]
        if not active:
            return None
        starts, deltas, adapters = self._standing(rows)
        known = mx.array([0 if row is None else row.tokens[-1] for row in rows], mx.int32)
        tokens = known
        if flight is not None and any(pending):
            flying = flight.sampled.tokens
            tokens = flying if all(pending) else mx.where(mx.array(pending), flying, known)
        logits = self.runner.decode(tokens, starts, deltas, adapters)
        sampled = sample(logits, draws, tokens)
        mx.async_eval(sampled.arrays(), self.runner.state())
        for row in active:
            row.cached += 1
        self.owner.grew(active, 1)
        return Flight(rows, sampled)

    def _standing(self, rows: list[Sequence | None]) -> tuple[list[int], list[int], list[str | None]]:
        """Per slot: tokens in the caches, position minus index, adapter. Slots without a row in this step keep their tokens; empty
        ones stand where the shortest row does."""
        idle = min(row.cached for row in rows if row is not None)
        return (
            [idle if row is None else row.cached for row in self._slots],
            [0 if row is None else row.prompt.position_delta for row in self._slots],
            [None if row is None else row.adapter for row in self._slots],
        )

    def _runs_ahead(self) -> bool:
        if self._ahead is not None:
            return self._ahead
        return mx.default_device().type == mx.DeviceType.gpu and self.runner.caches.nbytes <= AHEAD_BYTES

    def _must_read(self) -> bool:
        """Whether a row's next draw depends on the token in flight, or the batch's shape changed since."""
        flight = self._flight
        if flight is None:
            return False
        if len(flight.rows) != len(self._slots):
            return True
        return any(row is not None and not row.is_finished and row.needs_host() for row in flight.rows)

    # several tokens a row ----------------------------------------------------------------------------------------------

    def _speculate(self, drafter: Drafter) -> bool:
        """Draft, check and hand out for all rows at once; False where nothing was drafted, so that a plain step is due."""
        self.read()
        rows = [
            row if row is not None and len(row.tokens) < self.owner.most_tokens(row) and not row.outgrows() else None
            for row in self._slots
        ]
        # grammars and thinking budgets move with each token: such rows take one at a time
        most = [
            0
            if row is None or row.grammar is not None or row.thinking is not None or row.outgrows(drafter.num_drafts)
            else min(drafter.num_drafts, self.owner.most_tokens(row) - len(row.tokens) - 1)
            for row in rows
        ]
        try:
            drafts = drafter.propose(rows, most) if any(most) else []
            if not any(drafts):
                return False
            self._verify(rows, drafts)
        except Exception as error:  # noqa: BLE001 - see step
            self._fail_rows(error)
        return True

    def _verify(self, rows: list[Sequence | None], drafts: list[list[int]]) -> None:
        width = 1 + max(len(draft) for draft in drafts)
        table = np.zeros((len(rows), width), np.int32)
        for slot, row in enumerate(rows):
            if row is not None:
                table[slot, : 1 + len(drafts[slot])] = [row.tokens[-1], *drafts[slot]]
        logits = self.runner.verify(mx.array(table), *self._standing(rows))
        draws = []
        for at in range(width):
            places = [
                None if row is None else row.row(ahead=draft[:at]) for row, draft in zip(rows, drafts, strict=True)
            ]
            draws.append(sample(logits[:, at], places))
        mx.eval([array for drawn in draws for array in drawn.arrays()])
        read = [drawn.read() for drawn in draws]
        for slot, row in enumerate(rows):
            if row is None or row.is_finished:
                continue
            kept = 1
            while kept <= len(drafts[slot]) and read[kept - 1][0][slot] == drafts[slot][kept - 1]:
                kept += 1
            row.cached += kept
            self.owner.grew([row], kept)
            self.drafted += len(drafts[slot])
            self.accepted += kept - 1
            for tokens, logprobs in read[:kept]:
                if not row.is_finished:
                    self.owner.take(row, tokens[slot], logprobs[slot])

    # slots ---------------------------------------------------------------------------------------------------------------

    def _can_shrink(self) -> bool:
        active = sum(row is not None for row in self._slots)
        return batch_bucket(max(active, 1)) < self.runner.num_slots or (active == 0 and self.runner.num_slots > 0)

    def _shrink(self) -> None:
        """Give back slots that nobody uses, once the batch fits a smaller size."""
        if self._flight is not None or not self._can_shrink():
            return
        active = [slot for slot, row in enumerate(self._slots) if row is not None]
        self.runner.keep_slots(active)
        if self.drafter is not None:
            self.drafter.keep_slots(active, self.runner.num_slots)
        rows = [self._slots[slot] for slot in active]
        self._slots = rows + [None] * (self.runner.num_slots - len(rows))
        for slot, row in enumerate(rows):
            if row is not None:
                row.slot = slot

    def _fail_rows(self, error: Exception) -> None:
        for row in [row for row in self._slots if row is not None]:
            self.owner.fail(row, error)
        # what was queued for them would fail again under whoever joins next
        self.reset()
