"""IBM Granite's decoder: Llama's with constant factors on embeddings, residual branches, attention scores and logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..core.attention import Attention
from ..core.config import take
from ..core.inputs import Inputs, Output
from ..core.model import Select
from ..layers.attention import AttentionShape, Tables
from ..layers.mlp import GatedMlp
from .decoder import Decoder, DecoderConfig, DecoderLayer


@dataclass(frozen=True)
class GraniteConfig(DecoderConfig):
    """embedding, residual, attention_scale: factors; logits are divided by `logits`."""

    embedding: float = 1.0
    residual: float = 1.0
    attention_scale: float = 1.0
    logits: float = 1.0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **fixed: Any) -> GraniteConfig:
        factors = {
            "embedding": take(hf, "embedding_multiplier", float, 1.0),
            "residual": take(hf, "residual_multiplier", float, 1.0),
            "attention_scale": take(hf, "attention_multiplier", float, 1.0),
            "logits": take(hf, "logits_scaling", float, 1.0),
        }
        return super().from_hf(hf, **(factors | fixed))  # type: ignore[return-value]

    def attention(self, layer: int) -> AttentionShape:
        return replace(super().attention(layer), scale=self.attention_scale)


class GraniteLayer(DecoderLayer):
    def __init__(self, config: GraniteConfig, layer: int) -> None:
        super().__init__(config, layer, GatedMlp(config.dim, config.hidden, config.act, bias=config.mlp_bias))
        self.residual = config.residual

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), tables, plan, cache) * self.residual
        return x + self.mlp(self.post_attention_layernorm(x)) * self.residual


class GraniteDecoder(Decoder):
    def __init__(self, config: GraniteConfig) -> None:
        super().__init__(config)
        self.factors = (config.embedding, config.logits)
        self.layers = [GraniteLayer(config, layer) for layer in range(config.num_layers)]

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
        residuals: Sequence[mx.array] = (),
    ) -> Output:
        """Media rows among the embeddings are multiplied too."""
        scaled = Inputs(inputs.embeds * self.factors[0], inputs.per_token)
        return super().__call__(scaled, positions, attention, cache, select=select, residuals=residuals)

    def head(self, hidden: mx.array) -> mx.array:
        return super().head(hidden) / self.factors[1]
