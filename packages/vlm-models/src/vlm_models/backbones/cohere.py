"""Cohere's second decoder (Command R7B): attention and perceptron side by side behind one norm, rotary positions in the windowed
layers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.attention import Attention
from ..core.config import take
from ..layers.attention import AttentionShape, CausalAttention, Tables
from ..layers.mlp import GatedMlp
from ..layers.norm import LayerNorm
from .decoder import Decoder, DecoderConfig, layer_windows

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
}


@dataclass(frozen=True)
class CohereConfig(DecoderConfig):
    """Logits are multiplied by `logit_scale`."""

    logit_scale: float = 0.0625

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **fixed: Any) -> CohereConfig:
        """From a text_config of model_type cohere2. Raises ConfigError."""
        hf = _DEFAULTS | dict(hf)
        layers, every = take(hf, "num_hidden_layers", int), take(hf, "sliding_window_pattern", int, 4)
        kinds = ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)]
        bias = take(hf, "attention_bias", bool, False)
        values: dict[str, Any] = {
            "head_dim": take(hf, "head_dim", int, take(hf, "hidden_size", int) // take(hf, "num_attention_heads", int)),
            "norm_eps": take(hf, "layer_norm_eps", float, 1e-5),
            "windows": layer_windows(hf | {"layer_types": hf.get("layer_types") or kinds}, layers),
            "qkv_bias": bias,
            "out_bias": bias,
            "tied": take(hf, "tie_word_embeddings", bool, True),
            "logit_scale": take(hf, "logit_scale", float, 0.0625),
        }
        return super().from_hf(hf, **(values | fixed))  # type: ignore[return-value]

    def attention(self, layer: int) -> AttentionShape:
        return replace(super().attention(layer), interleaved=True)


class CohereLayer(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x))."""

    def __init__(self, config: CohereConfig, layer: int) -> None:
        super().__init__()
        self.turns = config.windows[layer] is not None
        self.input_layernorm = LayerNorm(config.dim, config.norm_eps, bias=False)
        self.self_attn = CausalAttention(config.attention(layer))
        self.mlp = GatedMlp(config.dim, config.hidden, config.act)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        y = self.input_layernorm(x)
        return x + self.self_attn(y, tables if self.turns else None, plan, cache) + self.mlp(y)


class CohereDecoder(Decoder):
    def __init__(self, config: CohereConfig) -> None:
        super().__init__(config)
        self.logit_scale = config.logit_scale
        self.layers: list[nn.Module] = [CohereLayer(config, layer) for layer in range(config.num_layers)]
        self.norm = LayerNorm(config.dim, config.norm_eps, bias=False)  # type: ignore[assignment]

    def head(self, hidden: mx.array) -> mx.array:
        return super().head(hidden) * self.logit_scale
