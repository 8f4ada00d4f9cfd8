"""The step loop: schedule, build the batch, run the model, sample per row, commit. One loop for one request or many.

Used by one thread. On a GPU decoding runs one step ahead of the host: the next step is queued before the tokens of the last
one are read, unless a row's next token depends on what the host makes of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

import mlx.core as mx
import numpy as np

from vlm_models import Model

from ..cache import CacheOptions, CacheStats, PrefixIndex, VisionFeatureCache, prefix_keys
from ..cache.buckets import batch_bucket
from ..cache.prefix import can_reuse
from ..errors import CapacityError, RequestCancelled
from ..request import Event, FinishReason, Request, TokenLogprob
from ..scheduler import Chunk, Limits, QueueFull, Scheduler, Ticket, TooLarge
from .runner import Prefill, Runner
from .sampler import Row, Sampled, sample
from .sequence import Sequence
from .speculation import Drafter, check_speculation

# MLX writes in place only into buffers that no queued work reads. A step ahead therefore copies the caches, which pays while
# they are small: this much takes about 0.1 ms on a GPU that moves 4 TB/s, and the host's gap between steps is longer.
AHEAD_BYTES = 256 << 20


@dataclass(frozen=True)
class EngineOptions:
    """limits: of the scheduler. cache: form of the caches. prefix_bytes: budget of caches kept for later prompts; 0 keeps none.
    max_context: most tokens of prompt and answer; None: no limit. drafter: makes the engine's drafter, on its thread; None: no
    speculation. runs_ahead: queue a step before the last one's tokens are read; None: on a GPU, while the caches are small.
    compiles: trace decoding into graphs; None: on a GPU."""

    limits: Limits = field(default_factory=Limits)
    cache: CacheOptions = field(default_factory=CacheOptions)
    prefix_bytes: int = 1 << 30
    max_context: int | None = None
    drafter: Callable[[], Drafter] | None = None
    runs_ahead: bool | None = None
    compiles: bool | None = None


@dataclass(frozen=True)
class EngineStats:
    """What the engine holds now, and what its caches did. drafted, accepted: tokens guessed, and those that were right."""

    waiting: int
    running: int
    cache_bytes: int
    prefix: CacheStats
    vision: CacheStats
    drafted: int = 0
    accepted: int = 0


@dataclass(eq=False)
class Flight:
    """A decode step on the device whose tokens the host has not read."""

    rows: list[Sequence | None]
    sampled: Sampled


class EngineCore:
    """Serves requests step by step.

    Args:
        model: to run; never called from elsewhere while the engine works.
        options: limits and caches.
        vision_cache: features by content, for requests that bring no cache of their own.
        model_key: names the model in caches that several models share.
        clock: seconds; for deadlines and timings.
    """

    def __init__(
        self,
        model: Model,
        options: EngineOptions | None = None,
        *,
        vision_cache: VisionFeatureCache | None = None,
        model_key: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options or EngineOptions()
        self.runner = Runner(model, self.options.cache, model_key, compiles=self.options.compiles)
        self.scheduler = Scheduler(self.options.limits)
        self.vision_cache = vision_cache if vision_cache is not None else VisionFeatureCache()
        self.prefixes = PrefixIndex(self.options.prefix_bytes)
        self._clock = clock
        self._drafter = None if self.options.drafter is None else self.options.drafter()
        self._drafted = self._accepted = 0
        if self._drafter is not None:
            check_speculation(self.runner)
        self._sequences: dict[int, Sequence] = {}
        self._work: dict[int, Prefill] = {}
        self._slots: list[Sequence | None] = []
        self._flight: Flight | None = None
        self._ids = count()
        self._events: list[Event] = []

    # requests --------------------------------------------------------------------------------------------------------

    def add(self, request_id: int, request: Request) -> None:
        """Queue a request. Raises CapacityError where there is no room for it, ever or now."""
        now = self._clock()
        ticket = Ticket(
            next(self._ids),
            len(request.prompt),
            priority=request.priority,
            deadline=None if request.timeout is None else now + request.timeout,
            blocks=request.prompt.blocks,
            width=request.params.n,
        )
        try:
            self.scheduler.add(ticket)
        except (QueueFull, TooLarge) as error:
            raise CapacityError(f"{error}; try again later or ask for less") from None
        self._sequences[ticket.id] = Sequence.first(ticket.id, request_id, request)

    def cancel(self, request_id: int) -> list[Event]:
        """End all answers of a request now; everything they held is free when this returns."""
        for sequence in [s for s in self._sequences.values() if s.request_id == request_id]:
            self._end(sequence, "cancelled", RequestCancelled("the request was cancelled"))
        return self._take_events()

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def stats(self) -> EngineStats:
        held = self.runner.caches.nbytes + sum(work.caches.nbytes for work in self._work.values())
        return EngineStats(
            self.scheduler.num_waiting,
            self.scheduler.num_running,
            held,
            self.prefixes.stats,
            self.vision_cache.stats,
            self._drafted,
            self._accepted,
        )

    def clear_caches(self) -> None:
        """Forget earlier prompts and encoded media."""
        self.prefixes.clear()
        self.vision_cache.clear(self.runner.model_key)

    def abort(self, error: Exception) -> list[Event]:
        """End every request, with an error or as cancelled."""
        reason: FinishReason = "cancelled" if isinstance(error, RequestCancelled) else "error"
        for sequence in list(self._sequences.values()):
            self._end(sequence, reason, error)
        self._flight = None
        return self._take_events()

    # the loop --------------------------------------------------------------------------------------------------------

    def step(self) -> list[Event]:
        """One round: admit, queue the next decode step, read the last one, run prefill chunks."""
        admission = self.scheduler.admit(self._clock())
        for ticket_id in admission.expired:
            timeout = self._sequences[ticket_id].request.timeout
            self._end(
                self._sequences[ticket_id], "error", CapacityError(f"not finished within {timeout:g} s; raise timeout")
            )
        for ticket_id in admission.overgrown:
            most = self.options.limits.cache_tokens
            self._end(
                self._sequences[ticket_id], "error", CapacityError(f"outgrew the {most} tokens that the caches hold")
            )
        if admission.preempted:
            self._preempt(admission.preempted)
        for ticket_id in admission.admitted:
            self._guard(ticket_id, self._begin)
        self._decode()
        for chunk in self.scheduler.plan().chunks:
            self._guard(chunk.id, lambda sequence, chunk=chunk: self._prefill(sequence, chunk))  # type: ignore[misc]
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _guard(self, ticket_id: int, action: Callable[[Sequence], None]) -> None:
        """Do something for one request; what goes wrong ends that request alone."""
        sequence = self._sequences.get(ticket_id)
        if sequence is None:
            return
        try:
            action(sequence)
        except Exception as error:  # noqa: BLE001 - one request's failure, of whatever kind, must not reach the others
            self._fail(sequence, error)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        for other in [s for s in self._sequences.values() if s.request_id == sequence.request_id]:
            self._end(other, "error", error)

    # prefill ---------------------------------------------------------------------------------------------------------

    def _begin(self, sequence: Sequence) -> None:
        sequence.started = sequence.started or self._clock()
        prompt = sequence.resumed()
        match = None
        if self._reuses(sequence):
            match = self.prefixes.match(prompt.adapter, prefix_keys(prompt), prompt.blocks)
        if match is None:
            self._work[sequence.id] = self.runner.begin(prompt)
            return
        if not sequence.tokens:
            sequence.reused = match.length
        self._work[sequence.id] = self.runner.begin(prompt, match.caches, match.length)
        self.scheduler.found(sequence.id, match.length)

    def _reuses(self, sequence: Sequence) -> bool:
        return self.options.prefix_bytes > 0 and sequence.request.use_prefix and can_reuse(sequence.prompt)

    def _prefill(self, sequence: Sequence, chunk: Chunk) -> None:
        work = self._work[sequence.id]
        request = sequence.request
        cache = self.vision_cache if request.vision_cache is None else request.vision_cache
        if not self.runner.encode(work, cache, self.options.limits.chunk_tokens):
            return
        if chunk.is_last and self._reuses(sequence):
            self._snapshot(sequence, work, chunk)
        self.runner.prefill(work, chunk.stop)
        self.scheduler.advance(chunk)
        if chunk.is_last:
            self._join(sequence, work)

    def _snapshot(self, sequence: Sequence, work: Prefill, chunk: Chunk) -> None:
        """Caches that cannot be taken back are kept one token before the prompt's end, where a repetition can go on."""
        at = chunk.stop - 1
        if work.caches.can_trim(chunk.stop, at) or work.prompt.legal_cut(at) != at or at <= chunk.start:
            return
        self.runner.prefill(work, at)
        self.prefixes.insert(work.prompt.adapter, prefix_keys(work.prompt)[:at], work.caches.copy())

    def _join(self, sequence: Sequence, work: Prefill) -> None:
        if work.logits is None:
            raise CapacityError("the prompt was not finished")
        if self._reuses(sequence):
            self.prefixes.insert(work.prompt.adapter, prefix_keys(work.prompt), work.caches.copy())
        family = [sequence]
        if not sequence.tokens:
            family += [sequence.fork(next(self._ids), index) for index in range(1, sequence.params.n)]
            sequence.prompt_seconds = 0.0
        logits = mx.broadcast_to(work.logits, (len(family), work.logits.shape[-1]))
        sampled = sample(logits, [member.row() for member in family])
        tokens, logprobs = sampled.read()
        if not sequence.tokens:
            for member in family:
                member.prompt_seconds = self._clock() - sequence.started
        self.scheduler.start(sequence.id, [member.id for member in family[1:]])
        for member in family[1:]:
            self._sequences[member.id] = member
        del self._work[sequence.id]
        for member, token, logprob in zip(family, tokens, logprobs, strict=True):
            self._commit(member, token, logprob)
            if not member.is_finished:
                self._enter(member, work)

    def _enter(self, sequence: Sequence, work: Prefill) -> None:
        """Give a sequence a row of the batch."""
        free = next((slot for slot, row in enumerate(self._slots) if row is None), len(self._slots))
        if free >= self.runner.num_slots:
            self.runner.room_for(free + 1)
        self._slots += [None] * (self.runner.num_slots - len(self._slots))
        self.runner.join(free, work)
        self._slots[free] = sequence
        sequence.slot, sequence.cached = free, work.done
        if self._drafter is not None:
            self._drafter.join(free, sequence, self.runner.num_slots)

    # decode ----------------------------------------------------------------------------------------------------------

    def _decode(self) -> None:
        if self._flight is not None and (self._must_read() or self._can_shrink()):
            self._read()
        self._shrink()
        if self._drafter is not None and self._speculate(self._drafter):
            return
        flight, self._flight = self._flight, None
        try:
            launched = self._launch(flight)
        except Exception as error:  # noqa: BLE001 - a failed batch ends its rows; the engine and the queue live on
            self._flight = None
            self._fail_rows(error)
            return
        self._flight = flight
        self._read()
        self._flight = launched if self._sequences else None
        if not self._runs_ahead():
            self._read()

    def _runs_ahead(self) -> bool:
        if self.options.runs_ahead is not None:
            return self.options.runs_ahead
        return mx.default_device().type == mx.DeviceType.gpu and self.runner.caches.nbytes <= AHEAD_BYTES

    def _speculate(self, drafter: Drafter) -> bool:
        """Draft, check and commit for all rows at once; False where nothing was drafted, so that a plain step is due."""
        self._read()
        rows = [row if row is not None and len(row.tokens) < self._most_tokens(row) else None for row in self._slots]
        # grammars and thinking budgets move with each token: such rows take one at a time
        most = [
            0
            if row is None or row.grammar is not None or row.thinking is not None
            else min(drafter.num_drafts, self._most_tokens(row) - len(row.tokens) - 1)
            for row in rows
        ]
        try:
            drafts = drafter.propose(rows, most) if any(most) else []
            if not any(drafts):
                return False
            self._verify(rows, drafts)
        except Exception as error:  # noqa: BLE001 - see _decode
            self._fail_rows(error)
        return True

    def _verify(self, rows: list[Sequence | None], drafts: list[list[int]]) -> None:
        width = 1 + max(len(draft) for draft in drafts)
        table = np.zeros((len(rows), width), np.int32)
        for slot, row in enumerate(rows):
            if row is not None:
                table[slot, : 1 + len(drafts[slot])] = [row.tokens[-1], *drafts[slot]]
        starts, deltas, adapters = self._standing(rows)
        logits = self.runner.verify(mx.array(table), starts, deltas, adapters)
        draws = [
            sample(
                logits[:, at],
                [row.row(ahead=drafts[slot][:at]) if row is not None else None for slot, row in enumerate(rows)],
            )
            for at in range(width)
        ]
        mx.eval([array for drawn in draws for array in drawn.arrays()])
        read = [drawn.read() for drawn in draws]
        for slot, row in enumerate(rows):
            if row is None:
                continue
            kept = 1
            while kept <= len(drafts[slot]) and read[kept - 1][0][slot] == drafts[slot][kept - 1]:
                kept += 1
            row.cached += kept
            self.scheduler.decoded([row.id], kept)
            self._drafted += len(drafts[slot])
            self._accepted += kept - 1
            for at in range(kept):
                if not row.is_finished:
                    token, logprob = read[at][0][slot], read[at][1][slot]
                    self._guard(row.id, lambda s, t=token, p=logprob: self._commit(s, t, p))  # type: ignore[misc]

    def _standing(self, rows: list[Sequence | None]) -> tuple[list[int], list[int], list[str | None]]:
        """Per slot: tokens in the caches, position minus index, adapter. Idle slots stand where the shortest row does."""
        idle = min(row.cached for row in rows if row is not None)
        return (
            [idle if row is None else row.cached for row in self._slots],
            [0 if row is None else row.prompt.position_delta for row in self._slots],
            [None if row is None else row.prompt.adapter for row in self._slots],
        )

    def _must_read(self) -> bool:
        """Whether a row's next draw depends on the token in flight, or the batch's shape changed since."""
        flight = self._flight
        if flight is None:
            return False
        if len(flight.rows) != len(self._slots):
            return True
        return any(row is not None and not row.is_finished and row.needs_host() for row in flight.rows)

    def _can_shrink(self) -> bool:
        active = sum(row is not None for row in self._slots)
        return batch_bucket(max(active, 1)) < self.runner.num_slots or (active == 0 and self.runner.num_slots > 0)

    def _shrink(self) -> None:
        """Give back slots that nobody uses, once the batch fits a smaller size."""
        if self._flight is not None or not self._can_shrink():
            return
        active = [slot for slot, row in enumerate(self._slots) if row is not None]
        self.runner.keep_slots(active)
        if self._drafter is not None:
            self._drafter.keep_slots(active, self.runner.num_slots)
        rows = [self._slots[slot] for slot in active]
        self._slots = rows + [None] * (self.runner.num_slots - len(rows))
        for slot, row in enumerate(rows):
            if row is not None:
                row.slot = slot

    def _launch(self, flight: Flight | None) -> Flight | None:
        """Queue a decode step for every row that takes another token; rows in flight feed theirs on the device."""
        before = flight.rows if flight is not None else []
        pending = [
            row is not None and slot < len(before) and before[slot] is row for slot, row in enumerate(self._slots)
        ]
        rows: list[Sequence | None] = []
        draws: list[Row | None] = []
        for slot, row in enumerate(self._slots):
            if row is None or len(row.tokens) + pending[slot] >= self._most_tokens(row):
                rows.append(None)
                draws.append(None)
                continue
            try:
                draws.append(row.row(is_pending=pending[slot]))
                rows.append(row)
            except Exception as error:  # noqa: BLE001 - a grammar's failure is its request's
                self._fail(row, error)
                draws.append(None)
                rows.append(None)
        active = [row for row in rows if row is not None]
        if not active:
            return None
        starts, deltas, adapters = self._standing(rows)
        known = mx.array([row.tokens[-1] if row is not None else 0 for row in self._slots], mx.int32)
        tokens = known
        if flight is not None and any(pending):
            tokens = (
                flight.sampled.tokens if all(pending) else mx.where(mx.array(pending), flight.sampled.tokens, known)
            )
        logits = self.runner.decode(tokens, starts, deltas, adapters)
        sampled = sample(logits, draws, tokens)
        mx.async_eval(sampled.arrays(), self.runner.state())
        for row in active:
            row.cached += 1
        self.scheduler.decoded(row.id for row in active)
        return Flight(rows, sampled)

    def _most_tokens(self, sequence: Sequence) -> int:
        most = sequence.params.max_tokens
        if self.options.max_context is not None:
            most = min(most, max(self.options.max_context - len(sequence.prompt), 1))
        return most

    def _read(self) -> None:
        """Wait for the step in flight and commit its tokens."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        try:
            tokens, logprobs = flight.sampled.read()
        except Exception as error:  # noqa: BLE001 - see _decode
            self._fail_rows(error)
            return
        for row, token, logprob in zip(flight.rows, tokens, logprobs, strict=True):
            if row is not None and not row.is_finished:
                self._guard(row.id, lambda s, t=token, p=logprob: self._commit(s, t, p))  # type: ignore[misc]

    def _commit(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> None:
        """Add a token to an answer and tell; ends the answer where it is complete."""
        sequence.accept(token)
        reason: FinishReason | None = None
        grammar = sequence.grammar
        if token in sequence.params.stop_tokens or (grammar is not None and grammar.is_finished):
            reason = "stop"
        elif len(sequence.tokens) >= self._most_tokens(sequence):
            reason = "length"
        self._tell(sequence, token=token, logprob=logprob, finish_reason=reason)
        if reason is not None:
            self._keep(sequence)
            self._leave(sequence)

    def _keep(self, sequence: Sequence) -> None:
        """Keep a finished row's caches for the prompts that go on from it."""
        if sequence.slot is None or not self._reuses(sequence):
            return
        length = min(sequence.cached, sequence.length)
        # a row in flight has moved on by a token; states that cannot be taken back are not its prefix any more
        if self.runner.caches.can_trim(sequence.cached, length) and self.runner.caches.can_trim(length, length - 1):
            keys = prefix_keys(sequence.prompt, sequence.tokens)[:length]
            self.prefixes.insert(sequence.prompt.adapter, keys, self.runner.caches.extract(sequence.slot, length))

    # ends ------------------------------------------------------------------------------------------------------------

    def _preempt(self, ticket_ids: Iterable[int]) -> None:
        self._read()
        for ticket_id in ticket_ids:
            sequence = self._sequences.get(ticket_id)
            if sequence is None:
                continue
            self._vacate(sequence)
            self.scheduler.resize(ticket_id, sequence.length)

    def _fail_rows(self, error: Exception) -> None:
        for row in [row for row in self._slots if row is not None]:
            self._fail(row, error)

    def _end(self, sequence: Sequence, reason: FinishReason, error: Exception) -> None:
        if not sequence.is_finished:
            self._tell(sequence, finish_reason=reason, error=error)
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        sequence.is_finished = True
        self.scheduler.remove(sequence.id)
        self._sequences.pop(sequence.id, None)
        self._work.pop(sequence.id, None)
        self._vacate(sequence)
        if not self._sequences:
            self._flight = None
            self._shrink()

    def _vacate(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._slots[sequence.slot] = None
            sequence.slot, sequence.cached = None, 0

    def _tell(
        self,
        sequence: Sequence,
        *,
        token: int | None = None,
        logprob: TokenLogprob | None = None,
        finish_reason: FinishReason | None = None,
        error: Exception | None = None,
    ) -> None:
        self._events.append(
            Event(
                sequence.request_id,
                sequence.index,
                token,
                logprob,
                finish_reason,
                error,
                sequence.prompt_tokens,
                sequence.reused,
                sequence.prompt_seconds,
                self._clock(),
            )
        )
