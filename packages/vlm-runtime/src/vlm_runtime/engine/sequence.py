"""One answer on its way: what the engine knows of it between steps. Holds no arrays of the device."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..request import Grammar, Request, SamplingParams
from .sampler import Row, mix
from .thinking import Thinking

if TYPE_CHECKING:
    from vlm_models import Prompt


@dataclass(eq=False)
class Sequence:
    """One of a request's answers.

    id: its ticket. tokens: the answer so far. slot: its row in the batch, None while it is not decoding. cached: tokens of
    prompt and answer in its row of the caches. adapter: the branch these went through. reused: prompt tokens that an earlier
    request's cache served.
    """

    id: int
    request_id: int
    index: int
    request: Request
    seed: int
    thinking: Thinking | None = None
    grammar: Grammar | None = None
    tokens: list[int] = field(default_factory=list)
    slot: int | None = None
    cached: int = 0
    adapter: str | None = None
    reused: int = 0
    started: float = 0.0
    prompt_seconds: float = 0.0
    is_finished: bool = False

    @classmethod
    def first(cls, ticket_id: int, request_id: int, request: Request) -> Sequence:
        params = request.params
        seed = params.seed if params.seed is not None else int.from_bytes(os.urandom(8), "little")
        thinking = None
        if params.thinking is not None:
            thinking = Thinking(params.thinking, request.prompt.tokens.tolist())
        return cls(ticket_id, request_id, 0, request, seed, thinking, request.grammar)

    def fork(self, ticket_id: int, index: int) -> Sequence:
        """Another answer to the same request, before any token was drawn."""
        thinking = None
        if self.params.thinking is not None:
            thinking = Thinking(self.params.thinking, self.prompt.tokens.tolist())
        grammar = None if self.request.grammar is None else self.request.grammar.copy()
        return replace(
            self,
            id=ticket_id,
            index=index,
            seed=mix(self.seed, -1 - index),
            thinking=thinking,
            grammar=grammar,
            tokens=[],
        )

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def prompt(self) -> Prompt:
        return self.request.prompt

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt as it is counted for users: what an encoder reads is part of it."""
        context = self.prompt.context
        return len(self.prompt) + (0 if context is None else len(context))

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.tokens)

    def needs_host(self) -> bool:
        """Whether its next token must be known before the one after it can be queued."""
        return self.grammar is not None or (self.thinking is not None and self.thinking.is_near)

    def row(self, *, is_pending: bool = False, ahead: list[int] | None = None) -> Row:
        """What its next draw needs, or the one after the tokens `ahead`. Raises what its grammar raises."""
        params = self.params
        tokens = [*self.tokens, *ahead] if ahead else self.tokens
        index = len(tokens) + is_pending
        banned = sorted(params.stop_tokens) if index < params.min_tokens else ()
        forced = self.thinking.forced if self.thinking is not None else None
        allowed = None
        if self.grammar is not None and forced is None and not (self.thinking is not None and self.thinking.is_open):
            allowed = self.grammar.mask()
            if self.thinking is not None and self.thinking.params.may_open and not tokens:
                allowed = allowed.copy()
                allowed[self.thinking.params.start[0]] = True
        tail: list[int] = []
        if params.repeats:
            tail = self.prompt.tokens[-params.repetition_context_size :].tolist()
        return Row(params, self.seed, index, tail, tokens, is_pending, banned, allowed, forced)

    def accept(self, token: int) -> None:
        """A token was chosen. Raises what its grammar raises."""
        self.tokens.append(token)
        is_thought = False
        if self.thinking is not None:
            was_open = self.thinking.is_open
            self.thinking.observe(token)
            is_thought = was_open or self.thinking.is_open
        if self.grammar is not None and not is_thought and token not in self.params.stop_tokens:
            self.grammar.accept(token)

    def resumed(self) -> Prompt:
        """Prompt and answer so far as one prompt, for a sequence that lost its row."""
        return self.prompt.extended(self.tokens) if self.tokens else self.prompt

    def outgrows(self, ahead: int = 0) -> bool:
        """Whether its caches serve no longer once so many more tokens stand: they went through another branch."""
        return self.prompt.adapter_at(self.length + ahead) != self.adapter
