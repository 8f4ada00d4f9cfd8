"""What generation gives back."""

from __future__ import annotations

from dataclasses import dataclass

from .request import FinishReason, TokenLogprob


@dataclass(frozen=True)
class GenerationResult:
    """An answer, or the piece of one that a token brought; prints as its text.

    text: of the whole answer, or what this token completes. token: the last token, None before the first. tokens: all
    tokens so far. logprobs: one per token of `tokens` if asked for, else empty. prompt_tokens, generation_tokens: counts so far;
    cached_tokens: prompt tokens that earlier work served. prompt_tps: prompt tokens over the time to the first token;
    generation_tps: further tokens over the time since. peak_memory: GB of device memory, this process. finish_reason: None while
    more comes. index: which of `n` answers. time_to_first_token: seconds, media and tokenizing included.
    stop_string: the one that ended the answer.
    """

    text: str
    token: int | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prompt_tps: float = 0.0
    generation_tps: float = 0.0
    peak_memory: float = 0.0
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    index: int = 0
    time_to_first_token: float = 0.0
    stop_string: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.generation_tokens
