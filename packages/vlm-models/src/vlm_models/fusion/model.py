"""The most common shape of a family: feature rows take the places of tokens in front of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..backbones.decoder import Decoder
from ..core.attention import Attention
from ..core.cache import CacheSpec
from ..core.inputs import Features, Inputs, Output, Span
from ..core.model import Model, Select
from ..core.weights import Drop, DropCopy, Rename, Rule, Unflatten
from .scatter import scatter


class DecoderModel(Model):
    """Subclasses set `language_model` and say how media are encoded."""

    language_model: Decoder

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        return Inputs(scatter(self.language_model.embed_tokens(tokens), features, spans))

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

    @property
    def whole_beyond(self) -> int | None:
        return self.language_model.whole_beyond


def decoder_rules(*, tied: bool) -> tuple[Rule, ...]:
    """Names of the text side in all layouts: model.language_model.* and lm_head.*, language_model.model.* and
    language_model.lm_head.*, or the published flat model.* (for towers renamed before)."""
    rules: list[Rule] = [
        Rename("model.language_model.*", "language_model.*"),
        Rename("language_model.model.*", "language_model.*"),
        Rename("lm_head.*", "language_model.lm_head.*"),
        Drop("*.rotary_emb.inv_freq"),
    ]
    if tied:
        rules.append(DropCopy("language_model.lm_head", "language_model.embed_tokens"))
    return tuple(rules)


def tower_rules(name: str = "vision_tower") -> tuple[Rule, ...]:
    """Names of a CLIP-like tower in all layouts: under `model.`, and with or without the inner `vision_model.`."""
    return (
        Rename(f"model.{name}.*", f"{name}.*"),
        Rename(f"{name}.vision_model.*", f"{name}.*"),
        Drop(f"{name}.embeddings.position_ids"),
        # the pooling head of SigLIP, which nothing here reads
        Drop(f"{name}.head.*"),
    )


def conversion_names(
    channels: int, patch: int, *, tower: str = "vision_tower", inner: str = "vision_model.", patches: str = ""
) -> tuple[Rule, ...]:
    """Own names as conversions elsewhere in the MLX world have them: language_model.model.*, towers with an inner
    `vision_model.`, patch convolutions [out, patch, patch, channels]. patches: their name in the tower."""
    place = f"{tower}.{inner}{patches or 'embeddings.patch_embedding'}.weight"
    return (
        Rename("language_model.*", "language_model.model.*"),
        Rename("language_model.model.lm_head.*", "language_model.lm_head.*"),
        *((Rename(f"{tower}.*", f"{tower}.{inner}*"),) if inner else ()),
        Unflatten(place, (channels, patch, patch)),
    )
