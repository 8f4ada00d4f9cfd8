"""Choose the next token of every row at once, each row by its own rules.

A draw depends on the row's logits, its parameters, its seed and the index of the token, so a seeded answer is the same in any
company. Knows nothing of sequences, caches or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ..request import SamplingParams, TokenLogprob
from . import processors

_MASK = (1 << 64) - 1
# drawn where a row's logits are not numbers
NOT_A_TOKEN = -1


def mix(seed: int, index: int) -> int:
    """64 well-mixed bits of a seed and an index (splitmix64)."""
    x = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@dataclass
class Row:
    """What one row's draw needs.

    seed, index: the answer's seed and the number of tokens it has. prompt_tail: the prompt's last tokens, as far back as
    repetition looks. generated: the answer's tokens that the host knows. is_pending: one more token precedes this draw,
    known to the device alone. banned: tokens not allowed now. allowed: bool [V], structured output. forced: the token, if it is
    not to be chosen.
    """

    params: SamplingParams
    seed: int = 0
    index: int = 0
    prompt_tail: Sequence[int] = ()
    generated: Sequence[int] = ()
    is_pending: bool = False
    banned: Sequence[int] = ()
    allowed: np.ndarray | None = None
    forced: int | None = None


_IDLE = Row(SamplingParams())


@dataclass
class Sampled:
    """tokens: int32 [B], NOT_A_TOKEN where logits were NaN. logprobs: float32 [B], or None if no row asked. top_tokens,
    top_logprobs: [B, K]."""

    tokens: mx.array
    logprobs: mx.array | None = None
    top_tokens: mx.array | None = None
    top_logprobs: mx.array | None = None
    rows: Sequence[Row | None] = field(default_factory=tuple)

    def arrays(self) -> list[mx.array]:
        return [a for a in (self.tokens, self.logprobs, self.top_tokens, self.top_logprobs) if a is not None]

    def read(self) -> tuple[list[int], list[TokenLogprob | None]]:
        """Bring the result to the host; waits for the device."""
        tokens: list[int] = np.asarray(self.tokens).tolist()
        if self.logprobs is None:
            return tokens, [None] * len(tokens)
        chosen = np.asarray(self.logprobs).tolist()
        top_tokens = None if self.top_tokens is None else np.asarray(self.top_tokens).tolist()
        top_logprobs = None if self.top_logprobs is None else np.asarray(self.top_logprobs).tolist()
        reports: list[TokenLogprob | None] = []
        for at, row in enumerate(self.rows):
            if row is None or not row.params.logprobs:
                reports.append(None)
                continue
            count = row.params.top_logprobs
            top: tuple[tuple[int, float], ...] = ()
            if count and top_tokens is not None and top_logprobs is not None:
                top = tuple(zip(top_tokens[at][:count], top_logprobs[at][:count], strict=True))
            reports.append(TokenLogprob(tokens[at], chosen[at], top))
        return tokens, reports


def sample(logits: mx.array, rows: Sequence[Row | None], pending: mx.array | None = None) -> Sampled:
    """One token per row. logits: [B, V]. rows: None for a row whose result nobody reads. pending: int32 [B], the tokens that
    precede this draw in rows that say so."""
    raw = logits.astype(mx.float32)
    filled = [row or _IDLE for row in rows]
    shaped = _shape(raw, filled, pending)
    tokens = mx.argmax(shaped, axis=-1).astype(mx.int32)
    drawing = [not row.params.is_greedy for row in filled]
    if any(drawing):
        drawn = _draw(shaped, filled)
        tokens = drawn if all(drawing) else mx.where(mx.array(drawing), drawn, tokens)
    forced = [-1 if row.forced is None else row.forced for row in filled]
    if any(token >= 0 for token in forced):
        array = mx.array(forced, mx.int32)
        tokens = mx.where(array >= 0, array, tokens)
    tokens = mx.where(mx.any(mx.isnan(raw), axis=-1), NOT_A_TOKEN, tokens)
    return _report(raw, tokens, rows)


def _shape(logits: mx.array, rows: Sequence[Row], pending: mx.array | None) -> mx.array:
    """Bias, penalties and structure: what holds before temperature."""
    if any(row.params.logit_bias or row.banned for row in rows):
        biases = [{**row.params.logit_bias, **dict.fromkeys(row.banned, -np.inf)} for row in rows]
        width = max(len(bias) for bias in biases)
        tokens, values = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.float32)
        for at, bias in enumerate(biases):
            tokens[at, : len(bias)], values[at, : len(bias)] = list(bias), list(bias.values())
        logits = processors.add_bias(logits, mx.array(tokens), mx.array(values))
    size = logits.shape[-1]
    if any(row.params.repeats for row in rows):
        counts = processors.count_tokens(_with_pending([_context(row) for row in rows], rows, pending), size)
        penalty = _column([row.params.repetition_penalty or 1.0 for row in rows])
        logits = processors.penalize_repetition(logits, counts, penalty)
    if any(row.params.presence_penalty or row.params.frequency_penalty for row in rows):
        used = [row.generated if row.params.has_penalties else () for row in rows]
        counts = processors.count_tokens(_with_pending(used, rows, pending), size)
        presence = _column([row.params.presence_penalty for row in rows])
        frequency = _column([row.params.frequency_penalty for row in rows])
        logits = processors.penalize_use(logits, counts, presence, frequency)
    if any(row.allowed is not None for row in rows):
        everything = np.ones(size, np.bool_)
        masks = [everything if row.allowed is None else _fit(row.allowed, size) for row in rows]
        logits = processors.keep_allowed(logits, mx.array(np.stack(masks)))
    return logits


def _draw(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    # greedy rows are drawn too and thrown away; 1 keeps them finite
    logits = logits / _column([row.params.temperature or 1.0 for row in rows])
    if any(row.params.top_k or row.params.top_p < 1 or row.params.min_p for row in rows):
        top_k = mx.array([[row.params.top_k] for row in rows], mx.int32)
        top_p, min_p = _column([r.params.top_p for r in rows]), _column([r.params.min_p for r in rows])
        logits = processors.filter_best(logits, top_k, top_p, min_p)
    words = [mix(row.seed & _MASK, row.index) for row in rows]
    keys = mx.array(np.array([[w >> 32, w & 0xFFFFFFFF] for w in words], np.uint32))
    size = logits.shape[-1]
    noise = mx.vmap(lambda key: mx.random.gumbel((size,), key=key))(keys)
    return mx.argmax(logits + noise, axis=-1).astype(mx.int32)


def _report(raw: mx.array, tokens: mx.array, rows: Sequence[Row | None]) -> Sampled:
    """The chosen and the best tokens' log probabilities in the model's own distribution, for rows that ask."""
    asking = [row for row in rows if row is not None and row.params.logprobs]
    if not asking:
        return Sampled(tokens, rows=rows)
    logprobs = raw - mx.logsumexp(raw, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
    count = min(max(row.params.top_logprobs for row in asking), raw.shape[-1])
    if count == 0:
        return Sampled(tokens, chosen, rows=rows)
    best = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[:, :count]
    values = mx.take_along_axis(logprobs, best, axis=-1)
    order = mx.argsort(-values, axis=-1)
    best, values = mx.take_along_axis(best, order, axis=-1), mx.take_along_axis(values, order, axis=-1)
    return Sampled(tokens, chosen, best, values, rows)


def _context(row: Row) -> Sequence[int]:
    """The host's part of the tokens that repetition looks at."""
    if not row.params.repeats:
        return ()
    size = row.params.repetition_context_size - row.is_pending
    generated = list(row.generated[-size:]) if size else []
    missing = size - len(generated)
    return [*(row.prompt_tail[-missing:] if missing > 0 else ()), *generated]


def _with_pending(known: Sequence[Sequence[int]], rows: Sequence[Row], pending: mx.array | None) -> mx.array:
    """int32 [B, M], -1 where empty, with each row's pending token in the last place."""
    width = max(1, max(len(tokens) for tokens in known))
    table = np.full((len(rows), width), -1, np.int32)
    for at, tokens in enumerate(known):
        table[at, : len(tokens)] = np.asarray(tokens, np.int32)
    if pending is None:
        return mx.array(table)
    last = mx.where(mx.array([row.is_pending for row in rows]), pending, -1)[:, None]
    return mx.concatenate([mx.array(table), last], axis=1)


def _fit(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask over the tokenizer's vocabulary for logits that may have more or fewer places."""
    fitted = np.zeros(size, np.bool_)
    count = min(size, len(mask))
    fitted[:count] = mask[:count]
    return fitted


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(list(values), mx.float32)[:, None]
