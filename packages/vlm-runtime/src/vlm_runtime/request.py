"""A request and what comes back from it: plain values between the front doors and the engine. Holds no MLX arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .errors import OptionError

if TYPE_CHECKING:
    import numpy as np

    from vlm_models import Prompt

FinishReason = Literal["stop", "length", "cancelled", "error"]
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class ThinkingParams:
    """Budget of tokens inside a thinking block. Markers are token ids; a marker may take several tokens.

    budget: most tokens inside one block; None: no limit. newline: what is forced, with `end`, once the budget is spent.
    may_open: whether an answer bound to a grammar may begin with a block; inside blocks the grammar rests.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    newline: tuple[int, ...] = ()
    budget: int | None = None
    may_open: bool = False

    def __post_init__(self) -> None:
        if not self.start or not self.end:
            raise OptionError(
                "thinking markers: expected a start and an end of at least one token each; name them both"
            )
        if self.budget is not None:
            _whole("thinking_budget", self.budget, 0)


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are chosen. Checked when built; raises OptionError naming the option.

    Order: logit bias and penalties -> temperature -> top_k -> top_p -> min_p -> draw. temperature 0 takes the best token.
    repetition_penalty acts on the last `repetition_context_size` tokens of prompt and answer; presence and frequency
    penalties act on the answer. seed None: a fresh one. stop: strings, found in the text. stop_tokens: end the answer.
    logprobs: report the chosen token's; top_logprobs: and those of the best so many, from the model's own distribution
    (temperature 1, nothing removed). n: answers to draw.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    repetition_context_size: int = 20
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    min_tokens: int = 0
    max_tokens: int = 2048
    logprobs: bool = False
    top_logprobs: int = 0
    thinking: ThinkingParams | None = None
    n: int = 1

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, math.inf)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _number("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        if self.repetition_penalty is not None:
            _number("repetition_penalty", self.repetition_penalty, 0.0, math.inf)
            if self.repetition_penalty == 0:
                raise OptionError("repetition_penalty: expected a number above 0, got 0; 1 means no penalty")
        _whole("top_k", self.top_k, 0)
        _whole("repetition_context_size", self.repetition_context_size, 0)
        _whole("max_tokens", self.max_tokens, 1)
        _whole("min_tokens", self.min_tokens, 0)
        _whole("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        _whole("n", self.n, 1, 128)
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        if self.min_tokens > self.max_tokens:
            raise OptionError(f"min_tokens: expected at most max_tokens={self.max_tokens}, got {self.min_tokens}")
        if self.top_logprobs and not self.logprobs:
            raise OptionError("top_logprobs: expected logprobs=True beside it; set logprobs")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise OptionError(f"stop: expected non-empty strings, got {self.stop!r}")
        for token, bias in self.logit_bias.items():
            _whole("logit_bias token", token, 0)
            _number(f"logit_bias[{token}]", bias, -math.inf, math.inf)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return self.repeats or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def repeats(self) -> bool:
        return self.repetition_penalty not in (None, 1.0) and self.repetition_context_size > 0


class Grammar(Protocol):
    """What one answer may say, token by token; the engine's per-row hook for structured output."""

    def mask(self) -> np.ndarray:
        """bool [vocabulary]: tokens allowed next."""

    def accept(self, token: int) -> None:
        """Move on by a token that was chosen. Raises where the token is not allowed."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""

    def copy(self) -> Grammar:
        """An independent matcher in the same state, for another answer to the same request."""


@dataclass(frozen=True)
class Request:
    """One prompt to answer.

    prompt: tokens, positions and media, ready for the model. priority: higher goes first. timeout: seconds after which
    the request ends with an error, queueing included. grammar: structured output. vision_cache: features to use instead
    of the engine's own cache. use_prefix: whether earlier prompts' caches may serve this one.
    """

    prompt: Prompt
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    timeout: float | None = None
    grammar: Grammar | None = None
    vision_cache: Any = None
    use_prefix: bool = True

    def __post_init__(self) -> None:
        if self.timeout is not None:
            _number("timeout", self.timeout, 0.0, math.inf)


@dataclass(frozen=True)
class TokenLogprob:
    """Log probability of a token, and of the best tokens at its place as (token, logprob), best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Event:
    """One step of one answer: a token, an end, or both.

    index: which of the request's n answers. finish_reason: set on an answer's last event. error: why, for `error` and
    `cancelled`. prompt_seconds: from admission to the first token, encoding and prefill. time: clock of the token.
    """

    request_id: int
    index: int = 0
    token: int | None = None
    logprob: TokenLogprob | None = None
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    time: float = 0.0


def option_names() -> frozenset[str]:
    """Names of the sampling options."""
    return frozenset(f.name for f in fields(SamplingParams))


def _number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or not low <= value <= high:
        raise OptionError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    if math.isinf(value) and math.isinf(high) and low == 0.0:
        raise OptionError(f"{name}: expected a finite number, got {value!r}")


def _whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name}: expected a whole number, got {value!r}")
    if value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise OptionError(f"{name}: expected a whole number {limits}, got {value}")
