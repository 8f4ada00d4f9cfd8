"""BART (arXiv:1910.13461): an encoder that sees both ways and a decoder that also attends to the encoder; learnt positions,
norms behind the residual."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.attention import Attention, AttentionRules
from ..core.cache import CacheSpec, Cross, Full, Several
from ..core.config import check, take
from ..core.inputs import Inputs, Output
from ..core.model import Select, selected
from ..errors import ModelError
from ..layers.activation import activation
from ..layers.attention import encoder_attention, merge_heads, split_heads
from ..layers.linear import Embedding, Linear
from ..layers.norm import LayerNorm

# rows of a position table before position 0, a habit of fairseq
OFFSET = 2


@dataclass(frozen=True)
class BartConfig:
    """encoder, decoder: (layers, heads, width of the feed-forward layer). start: the token that opens the decoder."""

    vocab_size: int
    dim: int
    encoder: tuple[int, int, int]
    decoder: tuple[int, int, int]
    act: str
    embed_scale: float
    max_positions: int
    start: int
    tied: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, tied: bool) -> BartConfig:
        """From a text_config; absent keys have the defaults of BartConfig in transformers. Raises ConfigError."""
        dim = take(hf, "d_model", int, 1024)

        def part(name: str) -> tuple[int, int, int]:
            layers, heads = take(hf, f"{name}_layers", int, 12), take(hf, f"{name}_attention_heads", int, 16)
            check(dim % heads == 0, f"{name}: {dim} does not split into {heads} heads")
            return layers, heads, take(hf, f"{name}_ffn_dim", int, 4096)

        act = take(hf, "activation_function", str, "gelu")
        activation(act)
        return cls(
            take(hf, "vocab_size", int, 50265),
            dim,
            part("encoder"),
            part("decoder"),
            act,
            math.sqrt(dim) if take(hf, "scale_embedding", bool, False) else 1.0,
            take(hf, "max_position_embeddings", int, 1024),
            take(hf, "decoder_start_token_id", int, 2),
            tied,
        )


class BartAttention(nn.Module):
    """Projections of one attention; who attends to whom is the caller's."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def queries(self, x: mx.array) -> mx.array:
        return split_heads(self.q_proj(x), self.num_heads)

    def keys_values(self, x: mx.array) -> tuple[mx.array, mx.array]:
        return split_heads(self.k_proj(x), self.num_heads), split_heads(self.v_proj(x), self.num_heads)

    def both_ways(self, x: mx.array) -> mx.array:
        """Everything in x [n, L, dim] sees everything."""
        k, v = self.keys_values(x)
        return self.out_proj(merge_heads(encoder_attention(self.queries(x), k, v, scale=self.scale)))

    def over(self, x: mx.array, plan: Attention, cache: Any, *, own: bool) -> mx.array:
        """Over a cache; `own`: x brings its keys and values."""
        k, v = self.keys_values(x) if own else (None, None)
        return self.out_proj(merge_heads(cache.attend(self.queries(x), k, v, plan, AttentionRules(self.scale))))


class EncoderLayer(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int, act: str) -> None:
        super().__init__()
        self.self_attn = BartAttention(dim, num_heads)
        self.self_attn_layer_norm = LayerNorm(dim)
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.final_layer_norm = LayerNorm(dim)
        self._act = activation(act)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.self_attn_layer_norm(x + self.self_attn.both_ways(x))
        return self.feed_forward(x)

    def feed_forward(self, x: mx.array) -> mx.array:
        return self.final_layer_norm(x + self.fc2(self._act(self.fc1(x))))


class DecoderLayer(EncoderLayer):
    def __init__(self, dim: int, num_heads: int, hidden: int, act: str) -> None:
        super().__init__(dim, num_heads, hidden, act)
        self.encoder_attn = BartAttention(dim, num_heads)
        self.encoder_attn_layer_norm = LayerNorm(dim)

    def step(self, x: mx.array, plan: Attention, cache: Mapping[str, Any]) -> mx.array:
        """x: [B, L, dim]. cache: `own` of the decoder's tokens, `context` of the encoder's."""
        x = self.self_attn_layer_norm(x + self.self_attn.over(x, plan, cache["own"], own=True))
        x = self.encoder_attn_layer_norm(x + self.encoder_attn.over(x, plan, cache["context"], own=False))
        return self.feed_forward(x)


class Half(nn.Module):
    """Positions, a norm and layers: what encoder and decoder share."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.embed_positions = Embedding(config.max_positions + OFFSET, config.dim)
        self.layernorm_embedding = LayerNorm(config.dim)

    def placed(self, embeds: mx.array, positions: mx.array) -> mx.array:
        """embeds: [B, L, dim], positions: int32 [B, L]."""
        return self.layernorm_embedding(embeds + self.embed_positions(positions + OFFSET))


class BartEncoder(Half):
    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        depth, heads, hidden = config.encoder
        self.layers = [EncoderLayer(config.dim, heads, hidden, config.act) for _ in range(depth)]


class BartDecoder(Half):
    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        depth, heads, hidden = config.decoder
        self.layers = [DecoderLayer(config.dim, heads, hidden, config.act) for _ in range(depth)]


class Bart(nn.Module):
    """Names are those of BartModel, with the head inside."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.dim)
        self.encoder = BartEncoder(config)
        self.decoder = BartDecoder(config)
        if not config.tied:
            self.lm_head = Linear(config.dim, config.vocab_size, bias=False)

    def embed(self, tokens: mx.array) -> mx.array:
        return self.shared(tokens) * self.config.embed_scale

    def read(self, embeds: mx.array, caches: Sequence[Mapping[str, Any]]) -> mx.array:
        """Run the encoder over embeds [1, L, dim] and fill the `context` caches. Returns its last state.

        Raises ModelError where the context is longer than the position table."""
        length = embeds.shape[1]
        if length > self.config.max_positions:
            raise ModelError(f"the encoder reads {self.config.max_positions} tokens at most, the prompt has {length}")
        x = self.encoder.placed(embeds, mx.arange(length)[None])
        for layer in self.encoder.layers:
            x = layer(x)
        for layer, cache in zip(self.decoder.layers, caches, strict=True):
            cache["context"].fill(*layer.encoder_attn.keys_values(x))
        return x

    def __call__(
        self, inputs: Inputs, positions: mx.array, attention: Attention, cache: Sequence[Any], *, select: Select = None
    ) -> Output:
        """Run the decoder. positions: int32 [1, B, L]."""
        x = self.decoder.placed(inputs.embeds, positions[0])
        for layer, layer_cache in zip(self.decoder.layers, cache, strict=True):
            x = layer.step(x, attention, layer_cache)
        rows = selected(x, select)
        return Output(self.shared.as_linear(rows) if self.config.tied else self.lm_head(rows), x)

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        depth, heads, _ = self.config.decoder
        size = self.config.dim // heads
        parts: dict[str, CacheSpec] = {"own": Full(heads, size, size), "context": Cross(heads, size, size)}
        return (Several(parts),) * depth
