"""Llama-like decoder: the text side of most families (Llama, Mistral, Qwen2, Qwen3 and their kin).

Pre-norm residual layers of grouped-query attention with rotary positions and a gated MLP; options for biases, per-head
norms, sliding windows and M-RoPE. A family with another feed-forward layer passes `feed_forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.attention import Attention
from ..core.cache import CacheSpec, Full, Window
from ..core.config import check, expect, take
from ..core.inputs import Inputs, Output
from ..core.model import Select, selected
from ..layers.attention import AttentionShape, CausalAttention, Tables
from ..layers.linear import Embedding, Linear
from ..layers.mlp import GatedMlp, gated
from ..layers.norm import RMSNorm
from ..layers.rope import Rope, RopeConfig


@dataclass(frozen=True)
class DecoderConfig:
    """windows: per layer, None for full attention. qkv_bias / out_bias / mlp_bias: of the projections."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    act: str
    norm_eps: float
    rope: RopeConfig
    tied: bool
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    max_positions: int = 4096

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **fixed: Any) -> DecoderConfig:
        """From a text configuration. `fixed` sets what the architecture decides rather than the file (biases, qk_norm, tied...).

        Raises ConfigError."""
        num_layers, num_heads = take(hf, "num_hidden_layers", int), take(hf, "num_attention_heads", int)
        dim = take(hf, "hidden_size", int)
        num_kv_heads = take(hf, "num_key_value_heads", int, num_heads)
        head_dim = take(hf, "head_dim", int, dim // num_heads)
        check(num_heads % num_kv_heads == 0, f"{num_heads} heads cannot share {num_kv_heads} key heads")
        act = take(hf, "hidden_act", str, "silu")
        gated(act)  # refuses an unknown activation at load
        values: dict[str, Any] = {
            "vocab_size": take(hf, "vocab_size", int),
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "hidden": take(hf, "intermediate_size", int),
            "act": act,
            "norm_eps": take(hf, "rms_norm_eps", float, 1e-6),
            "rope": RopeConfig.from_hf(hf, head_dim),
            "tied": take(hf, "tie_word_embeddings", bool, False),
            "windows": layer_windows(hf, num_layers),
            "max_positions": take(hf, "max_position_embeddings", int, 4096),
        }
        return cls(**(values | fixed))

    def attention(self, layer: int) -> AttentionShape:
        return AttentionShape(
            self.dim,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            qk_norm_eps=self.norm_eps if self.qk_norm else None,
            window=self.windows[layer],
            # a block there is only what may not be cut
            sees_blocks=self.rope.trained is None,
        )


def layer_windows(hf: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """Per layer the sliding window, None for full attention: from `layer_types`, else from Qwen2's use_sliding_window and
    max_window_layers, else Mistral's sliding_window. Raises ConfigError for other kinds of layer."""
    window = take(hf, "sliding_window", int, None)
    types = hf.get("layer_types")
    if types is not None:
        check(len(types) == num_layers, f"layer_types names {len(types)} layers of {num_layers}")
        for kind in set(types):
            expect({"layer_types": kind}, "layer_types", "full_attention", "sliding_attention")
        check(window is not None or "sliding_attention" not in types, "sliding layers need sliding_window")
        return tuple(window if kind == "sliding_attention" else None for kind in types)
    if "use_sliding_window" in hf:
        first = take(hf, "max_window_layers", int, num_layers)
        active = take(hf, "use_sliding_window", bool, False)
        return tuple(window if active and layer >= first else None for layer in range(num_layers))
    return (window,) * num_layers


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, layer: int, feed_forward: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = CausalAttention(config.attention(layer))
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = feed_forward

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), tables, plan, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding table, layers, last norm and head."""

    def __init__(self, config: DecoderConfig, feed_forward: Callable[[int], nn.Module | None] | None = None) -> None:
        """feed_forward: the layer's own, None for the gated MLP."""
        super().__init__()
        self.config = config

        def build(layer: int) -> nn.Module:
            own = None if feed_forward is None else feed_forward(layer)
            return GatedMlp(config.dim, config.hidden, config.act, bias=config.mlp_bias) if own is None else own

        self.embed_tokens = Embedding(config.vocab_size, config.dim)
        self.layers: list[Any] = [DecoderLayer(config, layer, build(layer)) for layer in range(config.num_layers)]
        self.norm = RMSNorm(config.dim, config.norm_eps)
        if not config.tied:
            self.lm_head = Linear(config.dim, config.vocab_size, bias=False)
        self._rope = Rope(config.rope)

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
        """residuals: arrays [B, L, dim] added after the first layers, one each (deepstack)."""
        x = inputs.embeds
        tables = self._rope(positions, plan=attention)
        for index, (layer, layer_cache) in enumerate(zip(self.layers, cache, strict=True)):
            x = layer(x, tables, attention, layer_cache)
            if index < len(residuals):
                x = x + residuals[index]
        hidden = self.norm(x)
        return Output(self.head(selected(hidden, select)), hidden)

    def head(self, hidden: mx.array) -> mx.array:
        return self.embed_tokens.as_linear(hidden) if self.config.tied else self.lm_head(hidden)

    @property
    def whole_beyond(self) -> int | None:
        return self.config.rope.trained

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        heads, size = self.config.num_kv_heads, self.config.head_dim
        return tuple(
            Full(heads, size, size) if window is None else Window(window, heads, size, size)
            for window in self.config.windows
        )
