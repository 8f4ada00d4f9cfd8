"""Put feature rows in the places of a prompt that take them."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..core.inputs import Features, Span


def scatter(embeds: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> mx.array:
    """Replace embeds[0, span] by rows of features[span.item].tokens. embeds: [1, L, D]; spans in order, disjoint."""
    return _joined(embeds, [(span, features[span.item].tokens) for span in spans])


def scatter_level(like: mx.array, features: Sequence[Features], spans: Sequence[Span], level: str) -> mx.array:
    """Zeros like [1, L, D], but the rows of one named level where features stand."""
    return _joined(mx.zeros_like(like), [(span, features[span.item].levels[level]) for span in spans])


def _joined(base: mx.array, rows: Sequence[tuple[Span, mx.array]]) -> mx.array:
    if not rows:
        return base
    parts, at = [], 0
    for span, source in sorted(rows, key=lambda row: row[0].start):
        if span.start > at:
            parts.append(base[:, at : span.start])
        parts.append(source[None, span.offset : span.offset + span.length].astype(base.dtype))
        at = span.stop
    if at < base.shape[1]:
        parts.append(base[:, at:])
    return mx.concatenate(parts, axis=1)
