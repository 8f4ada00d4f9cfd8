"""GLM-4's decoder: a norm before and behind each branch, rotary positions on neighbouring features of part of a head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..core.attention import Attention
from ..core.weights import Rule, Shapes, Split, Tensors
from ..layers.attention import AttentionShape, Tables
from ..layers.mlp import GatedMlp
from ..layers.norm import RMSNorm
from .decoder import Decoder, DecoderConfig, DecoderLayer


@dataclass(frozen=True)
class GlmConfig(DecoderConfig):
    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **fixed: Any) -> GlmConfig:
        return super().from_hf({"rms_norm_eps": 1e-5, **hf}, **fixed)  # type: ignore[return-value]

    def attention(self, layer: int) -> AttentionShape:
        return replace(super().attention(layer), interleaved=True)


class GlmLayer(DecoderLayer):
    def __init__(self, config: GlmConfig, layer: int) -> None:
        super().__init__(config, layer, GatedMlp(config.dim, config.hidden, config.act))
        self.post_self_attn_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.post_mlp_layernorm = RMSNorm(config.dim, config.norm_eps)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        x = x + self.post_self_attn_layernorm(self.self_attn(self.input_layernorm(x), tables, plan, cache))
        return x + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x)))


class GlmDecoder(Decoder):
    def __init__(self, config: GlmConfig) -> None:
        super().__init__(config)
        self.layers = [GlmLayer(config, layer) for layer in range(config.num_layers)]


@dataclass(frozen=True)
class DropLayersFrom:
    """Layers beyond the model's own, which published checkpoints carry for multi-token prediction.

    prefix: in front of the layer's number. first: number of the first to drop."""

    prefix: str
    first: int

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        return {name: value for name, value in tensors.items() if not self._is_beyond(name)}

    def _is_beyond(self, name: str) -> bool:
        found = re.match(re.escape(self.prefix) + r"(\d+)\.", name)
        return found is not None and int(found.group(1)) >= self.first


def glm_rules(config: GlmConfig) -> tuple[Rule, ...]:
    """For names that already start with language_model."""
    parts = ("language_model.layers.*.mlp.gate_proj.*", "language_model.layers.*.mlp.up_proj.*")
    return (
        DropLayersFrom("language_model.layers.", config.num_layers),
        Split("language_model.layers.*.mlp.gate_up_proj.*", parts),
    )
