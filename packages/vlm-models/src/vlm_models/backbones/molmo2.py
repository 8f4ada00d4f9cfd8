"""Molmo 2's decoder: Qwen3's or OLMo's. Norms on q and k by head or over the whole projection, norms before or behind each half of
a layer, scaled rotary positions on some layers alone, and an embedding table with more rows than the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rope

from ..core.attention import Attention
from ..core.cache import AttentionCache
from ..core.config import check, expect, take
from ..core.inputs import Inputs, Output
from ..core.model import Select, selected
from ..layers.attention import AttentionShape, CausalAttention, Tables, merge_heads, split_heads
from ..layers.linear import Linear
from ..layers.mlp import GatedMlp
from ..layers.norm import RMSNorm
from ..layers.rope import Rope
from .decoder import Decoder, DecoderConfig


@dataclass(frozen=True)
class MolmoConfig:
    """decoder: its vocabulary is the embedding table's. answers: rows of the head. whole_norm: q and k are normed over all heads
    together. norm_after: norms stand behind attention and feed-forward. scaled: layers with scaled rotary positions."""

    decoder: DecoderConfig
    answers: int
    whole_norm: bool
    norm_after: bool
    scaled: frozenset[int]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> MolmoConfig:
        """From a text_config, as published or as transformers 5 spells it. Raises ConfigError."""
        expect(hf, "use_qk_norm", True)
        expect(hf, "tie_word_embeddings", False)
        answers, extra = take(hf, "vocab_size", int), take(hf, "additional_vocab_size", int, 128)
        eps = hf.get("rms_norm_eps", hf.get("layer_norm_eps"))
        bias = hf.get("attention_bias", hf.get("qkv_bias"))
        decoder = DecoderConfig.from_hf(
            {**hf, "vocab_size": answers + extra, "rms_norm_eps": eps, "attention_bias": bias},
            qkv_bias=take({"qkv_bias": bias}, "qkv_bias", bool, False),
            qk_norm=True,
            tied=False,
            windows=(None,) * take(hf, "num_hidden_layers", int),
        )
        decoder.rope.fixed()
        layers = hf.get("rope_scaling_layers")
        scaled = frozenset(range(decoder.num_layers) if layers is None else layers)
        check(
            scaled <= set(range(decoder.num_layers)), f"rope_scaling_layers {sorted(scaled)} names layers there are not"
        )
        return cls(
            decoder,
            answers,
            expect(hf, "qk_norm_type", "qwen3", "olmo") == "olmo",
            take(hf, "norm_after", bool, False),
            scaled,
        )


class WholeNormAttention(CausalAttention):
    """q and k are normed before they are split into heads."""

    def __init__(self, shape: AttentionShape, eps: float) -> None:
        super().__init__(replace(shape, qk_norm_eps=None))
        self.q_norm = RMSNorm(shape.num_heads * shape.head_dim, eps)
        self.k_norm = RMSNorm(shape.num_kv_heads * shape.head_dim, eps)

    def __call__(self, x: mx.array, tables: Tables | None, plan: Attention, cache: AttentionCache) -> mx.array:
        assert tables is not None
        q = rope(split_heads(self.q_norm(self.q_proj(x)), self.shape.num_heads), *tables)
        k = rope(split_heads(self.k_norm(self.k_proj(x)), self.shape.num_kv_heads), *tables)
        v = split_heads(self.v_proj(x), self.shape.num_kv_heads)
        return self.o_proj(merge_heads(cache.attend(q, k, v, plan, self.rules)))


class MolmoLayer(nn.Module):
    def __init__(self, config: MolmoConfig, layer: int) -> None:
        super().__init__()
        decoder, shape = config.decoder, config.decoder.attention(layer)
        self.input_layernorm = RMSNorm(decoder.dim, decoder.norm_eps)
        self.self_attn = WholeNormAttention(shape, decoder.norm_eps) if config.whole_norm else CausalAttention(shape)
        self.post_attention_layernorm = RMSNorm(decoder.dim, decoder.norm_eps)
        self.mlp = GatedMlp(decoder.dim, decoder.hidden, decoder.act)
        self.norm_after = config.norm_after

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        if self.norm_after:
            x = x + self.input_layernorm(self.self_attn(x, tables, plan, cache))
            return x + self.post_attention_layernorm(self.mlp(x))
        x = x + self.self_attn(self.input_layernorm(x), tables, plan, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class MolmoDecoder(Decoder):
    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config.decoder)
        self.layers = [MolmoLayer(config, layer) for layer in range(config.decoder.num_layers)]
        self.lm_head = Linear(config.decoder.dim, config.answers, bias=False)
        self._scaled = config.scaled
        self._plain = Rope(replace(config.decoder.rope, kind="default"))

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
        x = inputs.embeds
        scaled, plain = self._rope(positions), self._plain(positions)
        for index, (layer, layer_cache) in enumerate(zip(self.layers, cache, strict=True)):
            x = layer(x, scaled if index in self._scaled else plain, attention, layer_cache)
        hidden = self.norm(x)
        return Output(self.head(selected(hidden, select)), hidden)
