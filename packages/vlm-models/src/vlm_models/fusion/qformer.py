"""BLIP-2's querying transformer (arXiv:2301.12597) without text: queries attend to each other and to a picture; post-norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.config import check, expect, take
from ..layers.activation import activation
from ..layers.attention import encoder_attention, merge_heads, split_heads
from ..layers.linear import Linear
from ..layers.norm import LayerNorm


@dataclass(frozen=True)
class QFormerConfig:
    """every: one layer in so many, from the first, attends to the picture."""

    dim: int
    num_heads: int
    depth: int
    hidden: int
    act: str
    norm_eps: float
    every: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, dim: int, num_heads: int) -> QFormerConfig:
        """From a qformer_config; the sizes are the tower's. Raises ConfigError."""
        expect(hf, "model_type", "blip_2_qformer")
        expect(hf, "use_qformer_text_input", False)
        act = take(hf, "hidden_act", str, "gelu")
        activation(act)
        check(num_heads > 0 and dim % num_heads == 0, f"a Q-Former of {dim} does not split into {num_heads} heads")
        return cls(
            dim,
            num_heads,
            take(hf, "num_hidden_layers", int, 12),
            take(hf, "intermediate_size", int, 3072),
            act,
            take(hf, "layer_norm_eps", float, 1e-12),
            take(hf, "cross_attention_frequency", int, 2),
        )


class _Projections(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = Linear(config.dim, config.dim)
        self.key = Linear(config.dim, config.dim)
        self.value = Linear(config.dim, config.dim)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        q, k, v = (
            split_heads(project(source), self.num_heads)
            for project, source in ((self.query, x), (self.key, context), (self.value, context))
        )
        return merge_heads(encoder_attention(q, k, v, scale=(x.shape[-1] // self.num_heads) ** -0.5))


class _Output(nn.Module):
    """norm(dense(y) + x)."""

    def __init__(self, in_size: int, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = Linear(in_size, config.dim)
        self.LayerNorm = LayerNorm(config.dim, config.norm_eps)

    def __call__(self, y: mx.array, x: mx.array) -> mx.array:
        return self.LayerNorm(self.dense(y) + x)


class _Attention(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.attention = _Projections(config)
        self.output = _Output(config.dim, config)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        return self.output(self.attention(x, context), x)


class _Intermediate(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.dim, config.hidden)
        self._act = activation(config.act)

    def __call__(self, x: mx.array) -> mx.array:
        return self._act(self.dense(x))


class _Layer(nn.Module):
    def __init__(self, config: QFormerConfig, index: int) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.reads = index % config.every == 0
        if self.reads:
            self.crossattention = _Attention(config)
        self.intermediate_query = _Intermediate(config)
        self.output_query = _Output(config.hidden, config)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        x = self.attention(x, x)
        if self.reads:
            x = self.crossattention(x, context)
        return self.output_query(self.intermediate_query(x), x)


class _Layers(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.layer = [_Layer(config, index) for index in range(config.depth)]


class QFormer(nn.Module):
    """Names are those of Blip2QFormerModel."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.layernorm = LayerNorm(config.dim, config.norm_eps)
        self.encoder = _Layers(config)

    def __call__(self, queries: mx.array, context: mx.array) -> mx.array:
        """queries: [n, L, dim], context: [n, S, dim] -> [n, L, dim]."""
        x = self.layernorm(queries)
        for layer in self.encoder.layer:
            x = layer(x, context)
        return x
