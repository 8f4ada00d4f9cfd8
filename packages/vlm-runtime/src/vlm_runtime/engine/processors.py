"""Logits processors: pure functions from logits [B, V] to logits [B, V], one set of parameters per row."""

from __future__ import annotations

import mlx.core as mx


def add_bias(logits: mx.array, tokens: mx.array, bias: mx.array) -> mx.array:
    """Add bias [B, M] at tokens [B, M]; unused places have bias 0. -inf forbids a token."""
    rows = mx.arange(logits.shape[0])[:, None]
    return logits.at[rows, tokens].add(bias)


def count_tokens(tokens: mx.array, size: int) -> mx.array:
    """How often each of `size` tokens occurs in a row of tokens [B, M]: float32 [B, size]. Negative places are empty."""
    rows = mx.arange(tokens.shape[0])[:, None]
    counts = mx.zeros((tokens.shape[0], size), mx.float32)
    return counts.at[rows, mx.maximum(tokens, 0)].add((tokens >= 0).astype(mx.float32))


def penalize_repetition(logits: mx.array, counts: mx.array, penalty: mx.array) -> mx.array:
    """Divide positive and multiply negative logits of tokens that occurred by penalty [B, 1]."""
    penalized = mx.where(logits > 0, logits / penalty, logits * penalty)
    return mx.where(counts > 0, penalized, logits)


def penalize_use(logits: mx.array, counts: mx.array, presence: mx.array, frequency: mx.array) -> mx.array:
    """Take away presence [B, 1] once and frequency [B, 1] for each time a token occurred."""
    return logits - presence * (counts > 0) - frequency * counts


def keep_allowed(logits: mx.array, allowed: mx.array) -> mx.array:
    """Forbid every token outside allowed bool [B, V]."""
    return mx.where(allowed, logits, -mx.inf)


def filter_best(logits: mx.array, top_k: mx.array, top_p: mx.array, min_p: mx.array) -> mx.array:
    """Forbid what lies outside the best tokens, per row: first top_k, then top_p of what is left, then min_p.

    top_k: int32 [B, 1], 0 for all. top_p: the fewest best tokens whose probabilities reach it. min_p: share of the best
    token's probability. The best token always stays, and so do tokens exactly as good as the last one kept.
    """
    size = logits.shape[-1]
    ordered = -mx.sort(-logits, axis=-1)
    rank = mx.arange(size)[None]
    ordered = mx.where(rank < mx.where(top_k > 0, top_k, size), ordered, -mx.inf)
    chance = mx.softmax(ordered, axis=-1, precise=True)
    before = mx.cumsum(chance, axis=-1) - chance
    # cumulative sums round: a row that wants everything is not asked
    kept = ((before < top_p) | (top_p >= 1.0)) & (chance >= min_p * chance[:, :1]) & (ordered > -mx.inf)
    kept = kept | (rank == 0)
    last = mx.min(mx.where(kept, ordered, mx.inf), axis=-1, keepdims=True)
    return mx.where(logits >= last, logits, -mx.inf)
