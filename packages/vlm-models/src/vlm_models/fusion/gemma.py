"""Feature rows in front of a Gemma decoder: text embeddings are scaled, media rows are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..backbones.gemma import GemmaDecoder
from ..core.attention import Attention
from ..core.cache import CacheSpec
from ..core.inputs import Features, Inputs, Output, Span
from ..core.model import Model, Select
from .scatter import scatter


class GemmaModel(Model):
    """Subclasses set `language_model` and say how media are encoded."""

    language_model: GemmaDecoder

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        return Inputs(scatter(self.language_model.embed(tokens), features, spans))

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
        adapters: Sequence[str | None] | None = None,
    ) -> Output:
        return self.language_model(inputs, positions, attention, cache, select=select)

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        return self.language_model.cache_spec()
