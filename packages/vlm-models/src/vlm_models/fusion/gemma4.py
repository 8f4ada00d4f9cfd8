"""Media in front of a Gemma 4 decoder: rows among scaled text embeddings, and embeddings per layer made of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rms_norm

from ..backbones.gemma4 import PER_LAYER, Gemma4Decoder
from ..core.attention import Attention
from ..core.cache import CacheSpec
from ..core.inputs import Features, Inputs, Output, Span
from ..core.model import Model, Select
from ..layers.linear import Linear
from .scatter import scatter


class Gemma4Embedder(nn.Module):
    """Norm without weight, then a linear map to the decoder's width."""

    def __init__(self, in_size: int, out_size: int, eps: float) -> None:
        super().__init__()
        self.embedding_projection = Linear(in_size, out_size, bias=False)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return self.embedding_projection(rms_norm(x, None, self.eps))


class Gemma4Model(Model):
    """Subclasses set `language_model` and `media_tokens` (ids that stand for features), and say how media are encoded."""

    language_model: Gemma4Decoder
    media_tokens: tuple[int, ...]

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        decoder = self.language_model
        known = tokens
        for token in self.media_tokens:
            # what stands for media reads the padding's embeddings per layer
            known = mx.where(tokens == token, decoder.config.pad, known)
        embeds = scatter(decoder.embed(known), features, spans)
        return Inputs(embeds, {PER_LAYER: decoder.per_layer(known, embeds)} if decoder.config.per_layer else {})

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
