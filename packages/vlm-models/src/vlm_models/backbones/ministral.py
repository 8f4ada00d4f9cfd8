"""Ministral 3's decoder: Mistral's, whose queries grow with the logarithm of their position (Llama 4's long-context scaling)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from vlm_kernels import rope

from ..core.attention import Attention
from ..core.cache import AttentionCache
from ..core.config import check, take
from ..layers.attention import AttentionShape, CausalAttention, Tables, merge_heads, split_heads
from .decoder import Decoder, DecoderConfig


@dataclass(frozen=True)
class MinistralConfig(DecoderConfig):
    """A query at position p is multiplied by 1 + beta * ln(1 + floor(p / stride))."""

    beta: float = 0.1
    stride: int = 16384

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **fixed: Any) -> MinistralConfig:
        given = hf.get("rope_parameters") or hf.get("rope_scaling")
        check(given is not None, "ministral3 needs rope_parameters")
        assert given is not None
        growth = {
            "beta": take(given, "llama_4_scaling_beta", float),
            "stride": take(given, "original_max_position_embeddings", int),
        }
        return super().from_hf(hf, **growth, **fixed)  # type: ignore[return-value]


class MinistralAttention(CausalAttention):
    def __init__(self, shape: AttentionShape, beta: float, stride: int) -> None:
        super().__init__(shape)
        self.growth = (beta, stride)

    def __call__(self, x: mx.array, tables: Tables | None, plan: Attention, cache: AttentionCache) -> mx.array:
        """x: [B, L, dim]. Positions are sequence indices: this decoder has one axis and no offset."""
        shape, (beta, stride) = self.shape, self.growth
        q = split_heads(self.q_proj(x), shape.num_heads)
        k = split_heads(self.k_proj(x), shape.num_kv_heads)
        v = split_heads(self.v_proj(x), shape.num_kv_heads)
        if tables is not None:
            q, k = rope(q, *tables), rope(k, *tables)
        positions = plan.offsets[:, None] + mx.arange(plan.length)
        factor = 1 + beta * mx.log((1 + positions // stride).astype(mx.float32))
        q = q * factor[:, None, :, None].astype(q.dtype)
        return self.o_proj(merge_heads(cache.attend(q, k, v, plan, self.rules)))


class MinistralDecoder(Decoder):
    def __init__(self, config: MinistralConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = MinistralAttention(config.attention(index), config.beta, config.stride)
