"""The step loop: schedule, decode, prefill, tell. One loop for one request or many; used by one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import count

import mlx.core as mx

from vlm_models import Model, ModelError

from ..cache import CacheOptions, PrefixIndex, VisionFeatureCache, bytes_per_token, prefix_keys
from ..cache.prefix import can_reuse
from ..errors import CapacityError, RequestCancelled
from ..request import Event, FinishReason, Request, TokenLogprob
from ..scheduler import Chunk, QueueFull, Scheduler, Ticket, TooLarge
from .batch import Batch
from .runner import Prefill, Runner
from .sampler import NOT_A_TOKEN, sample
from .sequence import Sequence
from .settings import EngineOptions, EngineStats
from .speculation import check_speculation


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
        drafter = None if self.options.drafter is None else self.options.drafter()
        if drafter is not None:
            check_speculation(self.runner)
        self._batch = Batch(self.runner, self, drafter, self.options.runs_ahead)
        self._sequences: dict[int, Sequence] = {}
        self._work: dict[int, Prefill] = {}
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
            self._batch.drafted,
            self._batch.accepted,
            *self._bytes_per_token,
        )

    @cached_property
    def _bytes_per_token(self) -> tuple[float, float]:
        """Of one more token: as the options keep it, and unquantized."""
        runner = self.runner
        forms = (self.options.cache, CacheOptions(max_kv_size=self.options.cache.max_kv_size))
        quantized, plain = (bytes_per_token(runner.specs, form, dtype=runner.dtype) for form in forms)
        return quantized, plain

    def clear_caches(self) -> None:
        """Forget earlier prompts and encoded media."""
        self.prefixes.clear()
        self.vision_cache.clear(self.runner.model_key)

    def abort(self, error: Exception) -> list[Event]:
        """End every request, with an error or as cancelled."""
        reason: FinishReason = "cancelled" if isinstance(error, RequestCancelled) else "error"
        for sequence in list(self._sequences.values()):
            self._end(sequence, reason, error)
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
        self._regrow()
        for ticket_id in admission.admitted:
            self._guard(ticket_id, self._begin)
        self._batch.step()
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
            self.fail(sequence, error)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """End a sequence's request; see `Owner`."""
        for other in [s for s in self._sequences.values() if s.request_id == sequence.request_id]:
            self._end(other, "error", error)

    # prefill ---------------------------------------------------------------------------------------------------------

    def _begin(self, sequence: Sequence) -> None:
        sequence.started = sequence.started or self._clock()
        prompt = sequence.resumed()
        sequence.adapter = prompt.adapter
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
                self._batch.enter(member, work)

    # answers ---------------------------------------------------------------------------------------------------------

    def most_tokens(self, sequence: Sequence) -> int:
        """See `Owner`."""
        most = sequence.params.max_tokens
        if self.options.max_context is not None:
            most = min(most, max(self.options.max_context - len(sequence.prompt), 1))
        return most

    def take(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> None:
        """See `Owner`."""
        self._guard(sequence.id, lambda taking: self._commit(taking, token, logprob))

    def grew(self, sequences: Iterable[Sequence], tokens: int) -> None:
        """See `Owner`."""
        self.scheduler.decoded((sequence.id for sequence in sequences), tokens)

    def _commit(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> None:
        """Add a token to an answer and tell; ends the answer where it is complete."""
        if token == NOT_A_TOKEN:
            raise ModelError(
                "the model's logits are not numbers (NaN); load it with dtype=float32, or check its weights"
            )
        sequence.accept(token)
        reason: FinishReason | None = None
        grammar = sequence.grammar
        if token in sequence.params.stop_tokens or (grammar is not None and grammar.is_finished):
            reason = "stop"
        elif len(sequence.tokens) >= self.most_tokens(sequence):
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
            self.prefixes.insert(sequence.adapter, keys, self.runner.caches.extract(sequence.slot, length))

    # ends ------------------------------------------------------------------------------------------------------------

    def _preempt(self, ticket_ids: Iterable[int]) -> None:
        self._batch.read()
        for ticket_id in ticket_ids:
            sequence = self._sequences.get(ticket_id)
            if sequence is None:
                continue
            self._batch.vacate(sequence)
            self.scheduler.resize(ticket_id, sequence.length)

    def _regrow(self) -> None:
        """Sequences whose caches serve no longer at their length go back to the queue."""
        for sequence in [s for s in self._sequences.values() if s.slot is not None and s.outgrows()]:
            self._batch.vacate(sequence)
            self.scheduler.requeue(sequence.id, sequence.length)

    def _end(self, sequence: Sequence, reason: FinishReason, error: Exception) -> None:
        if not sequence.is_finished:
            self._tell(sequence, finish_reason=reason, error=error)
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        sequence.is_finished = True
        self.scheduler.remove(sequence.id)
        self._sequences.pop(sequence.id, None)
        self._work.pop(sequence.id, None)
        self._batch.vacate(sequence)
        if not self._sequences:
            self._batch.reset()

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
