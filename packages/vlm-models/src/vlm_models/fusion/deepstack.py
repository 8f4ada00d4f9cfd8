"""A vision tower whose inner levels are added behind the decoder's first layers (Qwen3-VL's deepstack)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..core.attention import Attention
from ..core.inputs import Features, Inputs, MediaItem, Output, Span
from ..core.model import Select
from ..towers.qwen3_vit import Qwen3Vit
from .model import DecoderModel
from .scatter import scatter, scatter_level


class DeepstackModel(DecoderModel):
    """Subclasses set `visual` and `language_model`. num_levels: deepstack levels, the first goes behind layer 0."""

    visual: Qwen3Vit
    num_levels: int

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [self._encode(mx.array(item.arrays["patches"]), item.grid) for item in items]

    def _encode(self, patches: mx.array, grid: tuple[int, ...]) -> Features:
        tokens, levels = self.visual(patches, grid)
        return Features(tokens, {f"deepstack{index}": level for index, level in enumerate(levels)})

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        embeds = self.language_model.embed_tokens(tokens)
        if not spans:
            return Inputs(embeds)
        names = [f"deepstack{index}" for index in range(self.num_levels)]
        levels = {name: scatter_level(embeds, features, spans, name) for name in names}
        return Inputs(scatter(embeds, features, spans), levels)

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
        levels = [inputs.per_token[f"deepstack{i}"] for i in range(self.num_levels)] if inputs.per_token else []
        return self.language_model(inputs, positions, attention, cache, select=select, residuals=levels)
