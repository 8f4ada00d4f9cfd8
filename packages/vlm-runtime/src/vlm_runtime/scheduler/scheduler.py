"""Decide which sequences prefill and which decode in the next step.

Knows lengths, slots, priorities and deadlines. Does not know tokens, arrays, models, media or clocks of its own.

    waiting --admit--> prefilling --prefilled--> running --finish--> gone
       ^------------------ preempt ----------------'
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["waiting", "prefilling", "running"]

# A long prefill that stood back this often for shorter ones goes first, so that it always ends.
MOST_SKIPS = 4


class QueueFull(Exception):
    """The queue holds as many sequences as it may."""


class TooLarge(Exception):
    """A sequence can never run within the limits."""


@dataclass(frozen=True)
class Limits:
    """max_running: sequences prefilling or decoding at once. max_waiting: queue length. step_tokens: tokens a step may
    process, decoding rows counted first. chunk_tokens: most tokens of one prefill chunk, before it is rounded up to a legal
    cut. cache_tokens: tokens all caches together may hold, every row padded to the longest; None: no limit."""

    max_running: int = 16
    max_waiting: int = 256
    step_tokens: int = 2048
    chunk_tokens: int = 2048
    cache_tokens: int | None = None


@dataclass
class Ticket:
    """What the scheduler knows of a sequence.

    length: tokens to prefill. blocks: [start, stop) runs that no chunk may split, ascending. width: slots it takes once it
    decodes (n answers). done: tokens prefilled so far, or found in a cache. generated: tokens decoded since.
    """

    id: int
    length: int
    priority: int = 0
    arrival: int = 0
    deadline: float | None = None
    blocks: tuple[tuple[int, int], ...] = ()
    width: int = 1
    done: int = 0
    generated: int = 0
    stage: Stage = "waiting"
    skips: int = 0

    def legal_cut(self, at: int) -> int:
        """First index >= `at` where no block is split."""
        where = bisect.bisect_right(self.blocks, (at, -1)) - 1
        if where >= 0 and self.blocks[where][0] < at < self.blocks[where][1]:
            return self.blocks[where][1]
        return min(at, self.length)


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of a sequence's prompt; `is_last` when they complete it."""

    id: int
    start: int
    stop: int
    is_last: bool


@dataclass(frozen=True)
class Admission:
    """What changed before a step.

    expired: sequences past their deadline, already removed. preempted: running sequences sent back to the queue; their slots
    are free again. overgrown: a sequence that alone outgrew the caches, removed. admitted: sequences that left the queue and
    now prefill."""

    expired: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()
    overgrown: tuple[int, ...] = ()
    admitted: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What one step runs."""

    chunks: tuple[Chunk, ...] = ()
    decode: tuple[int, ...] = ()


@dataclass
class Scheduler:
    """Admission, chunking, preemption. All methods take and give integers; the caller owns arrays and time."""

    limits: Limits = field(default_factory=Limits)
    _tickets: dict[int, Ticket] = field(default_factory=dict)
    _waiting: list[int] = field(default_factory=list)
    _arrivals: int = 0

    def add(self, ticket: Ticket) -> None:
        """Queue a sequence.

        Raises:
            QueueFull: the queue is at its limit.
            TooLarge: the sequence alone exceeds slots or cache.
        """
        if len(self._waiting) >= self.limits.max_waiting:
            raise QueueFull(f"the queue holds {len(self._waiting)} requests, its limit")
        if ticket.width > self.limits.max_running:
            raise TooLarge(f"{ticket.width} answers exceed the {self.limits.max_running} rows that run at once")
        need = ticket.length * ticket.width
        if self.limits.cache_tokens is not None and need > self.limits.cache_tokens:
            raise TooLarge(f"{need} tokens exceed the {self.limits.cache_tokens} that the caches hold")
        ticket.arrival = self._arrivals
        self._arrivals += 1
        self._tickets[ticket.id] = ticket
        self._enqueue(ticket)

    def remove(self, ticket_id: int) -> bool:
        """Forget a sequence at any stage; its slots are free at once. False if it is not known."""
        ticket = self._tickets.pop(ticket_id, None)
        if ticket is not None and ticket.stage == "waiting":
            self._waiting.remove(ticket_id)
        return ticket is not None

    def found(self, ticket_id: int, tokens: int) -> None:
        """The first `tokens` tokens are in a cache already; prefill goes on from there."""
        self._tickets[ticket_id].done = tokens

    def advance(self, chunk: Chunk) -> None:
        """A chunk was run."""
        ticket = self._tickets[chunk.id]
        ticket.done = chunk.stop
        ticket.skips = 0

    def start(self, ticket_id: int, forks: Sequence[int] = ()) -> None:
        """A sequence's prefill is complete; it decodes from now on, with one more sequence per fork."""
        ticket = self._tickets[ticket_id]
        ticket.stage, ticket.width = "running", 1
        for fork in forks:
            self._tickets[fork] = Ticket(
                fork, ticket.length, ticket.priority, ticket.arrival, ticket.deadline, ticket.blocks, stage="running"
            )

    def decoded(self, ticket_ids: Iterable[int], tokens: int = 1) -> None:
        """These sequences grew by `tokens`."""
        for ticket_id in ticket_ids:
            self._tickets[ticket_id].generated += tokens

    def admit(self, now: float) -> Admission:
        """End what is late, send back what no longer fits, let in what does."""
        expired = self._expire(now)
        preempted = self._preempt()
        overgrown = self._overgrow()
        # a sequence sent back for room is not let in again in the same step
        return Admission(expired, preempted, overgrown, () if preempted else self._admit())

    def resize(self, ticket_id: int, length: int) -> None:
        """A preempted sequence has so many tokens to prefill when its turn comes again."""
        self._tickets[ticket_id].length = length

    def requeue(self, ticket_id: int, length: int) -> None:
        """A running sequence gave up its slot; it has so many tokens to prefill when its turn comes."""
        ticket = self._tickets[ticket_id]
        ticket.length, ticket.done, ticket.generated = length, 0, 0
        self._enqueue(ticket)

    def plan(self) -> Plan:
        """What to run now."""
        decode = tuple(t.id for t in self._tickets.values() if t.stage == "running")
        return Plan(self._chunks(len(decode)), decode)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Slots taken, those reserved by prefilling sequences included."""
        # a copy: other threads ask too
        return sum(t.width for t in list(self._tickets.values()) if t.stage != "waiting")

    @property
    def is_idle(self) -> bool:
        return not self._tickets

    def _enqueue(self, ticket: Ticket) -> None:
        ticket.stage = "waiting"
        bisect.insort(self._waiting, ticket.id, key=lambda i: self._rank(self._tickets[i]))

    @staticmethod
    def _rank(ticket: Ticket) -> tuple[int, int]:
        return (-ticket.priority, ticket.arrival)

    @staticmethod
    def _turn(ticket: Ticket) -> tuple[int, int, int, int]:
        # those that waited long go by arrival: by length, a stream of short prompts would keep a long one out for ever
        if ticket.skips >= MOST_SKIPS:
            return (-ticket.priority, 0, 0, ticket.arrival)
        return (-ticket.priority, 1, ticket.length - ticket.done, ticket.arrival)

    def _expire(self, now: float) -> tuple[int, ...]:
        late = [t.id for t in self._tickets.values() if t.deadline is not None and now >= t.deadline]
        for ticket_id in late:
            self.remove(ticket_id)
        return tuple(late)

    def _footprint(self, tickets: Iterable[Ticket]) -> int:
        """Cache tokens that these sequences take after one more step: rows are padded to the longest."""
        active = list(tickets)
        longest = max((t.length + t.generated + 1 for t in active), default=0)
        return longest * sum(t.width for t in active)

    def _active(self) -> list[Ticket]:
        return [t for t in self._tickets.values() if t.stage != "waiting"]

    def _overgrow(self) -> tuple[int, ...]:
        """The sequence that alone needs more than there is."""
        if self.limits.cache_tokens is None:
            return ()
        active = self._active()
        if len(active) != 1 or active[0].stage != "running" or self._footprint(active) <= self.limits.cache_tokens:
            return ()
        self.remove(active[0].id)
        return (active[0].id,)

    def _preempt(self) -> tuple[int, ...]:
        """Send back the least urgent running sequences until the next step fits the cache."""
        if self.limits.cache_tokens is None:
            return ()
        gone: list[int] = []
        while True:
            active = self._active()
            running = [t for t in active if t.stage == "running"]
            if self._footprint(active) <= self.limits.cache_tokens or len(active) <= 1 or not running:
                return tuple(gone)
            last = max(running, key=self._rank)
            self.requeue(last.id, last.length + last.generated)
            gone.append(last.id)

    def _admit(self) -> tuple[int, ...]:
        admitted: list[int] = []
        while self._waiting:
            ticket = self._tickets[self._waiting[0]]
            active = self._active()
            if self.num_running + ticket.width > self.limits.max_running:
                break
            room = self.limits.cache_tokens
            if room is not None and active and self._footprint([*active, ticket]) > room:
                break
            self._waiting.pop(0)
            ticket.stage, ticket.skips = "prefilling", 0
            admitted.append(ticket.id)
        return tuple(admitted)

    def _chunks(self, num_decoding: int) -> tuple[Chunk, ...]:
        """Chunks within the step's budget: urgent first, then those that waited long, then the shortest remainder.

        The budget bounds what is started, and a chunk is rounded up to a legal cut: the longest step is
        max(budget, longest indivisible run). A prefill always goes on by something, however many rows decode.
        """
        pending = [t for t in self._tickets.values() if t.stage == "prefilling"]
        pending.sort(key=self._turn)
        budget = max(self.limits.step_tokens - num_decoding, 1)
        chunks: list[Chunk] = []
        for ticket in pending:
            if budget <= 0:
                ticket.skips += 1
                continue
            size = max(1, min(self.limits.chunk_tokens, budget))
            stop = ticket.legal_cut(min(ticket.done + size, ticket.length))
            if chunks and stop - ticket.done > budget:
                ticket.skips += 1
                continue
            chunks.append(Chunk(ticket.id, ticket.done, stop, stop >= ticket.length))
            budget -= stop - ticket.done
        return tuple(chunks)
