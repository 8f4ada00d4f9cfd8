"""Gemma 1, 2 and 3 (arXiv:2403.08295, 2408.00118, 2503.19786): Llama-like layers with norms of 1 + weight and scaled text
embeddings; since Gemma 2 norms around both branches, sliding layers and soft caps; since Gemma 3 normed q and k and a
rotary base per kind of layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_COMMON: dict[str, Any] = {"head_dim": 256, "rms_norm_eps": 1e-6, "max_position_embeddings": 8192}
# what the classes of transformers assume where a published file says nothing
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": _COMMON
    | {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "rope_theta": 10000.0,
    },
    "gemma2": _COMMON
    | {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rope_theta": 10000.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window_pattern": 2,
    },
    "gemma3_text": _COMMON
    | {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10000.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
}


@dataclass(frozen=True)
class GemmaConfig:
    """windows: per layer, None for full attention. ropes: of full and of sliding layers."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    act: str
    norm_eps: float
    scale: float
    windows: tuple[int | None, ...]
    ropes: tuple[RopeConfig, RopeConfig]
    bias: bool
    has_post_norms: bool
    qk_norm: bool
    softcap: float | None
    logit_cap: float | None
    blocks_beyond_window: bool
    tied: bool

    @classmethod
    def from_hf(
        cls, hf: Mapping[str, Any], default: str, *, tied: bool, blocks_beyond_window: bool = False
    ) -> GemmaConfig:
        """From a text_config; `default`: its model_type where it names none. tied: what the whole model's configuration says.

        Raises ConfigError."""
        name = expect({"model_type": hf.get("model_type", default)}, "model_type", *_DEFAULTS)
        caps = ("attn_logit_softcapping", "final_logit_softcapping")  # null there means none
        hf = _DEFAULTS[name] | {key: value for key, value in hf.items() if value is not None or key in caps}
        # PaliGemma's files of transformers 5 say true of what its prompt does anyway
        expect(hf, "use_bidirectional_attention", False, *((True,) if blocks_beyond_window else ()))
        layers, heads, head_dim = (
            take(hf, key, int) for key in ("num_hidden_layers", "num_attention_heads", "head_dim")
        )
        kv_heads = take(hf, "num_key_value_heads", int)
        check(heads % kv_heads == 0, f"{heads} heads cannot share {kv_heads} key heads")
        act = take(hf, "hidden_act" if name == "gemma" else "hidden_activation", str, "gelu_pytorch_tanh")
        if name == "gemma" and act == "gelu":
            act = "gelu_pytorch_tanh"  # what the first files meant by it, and the reference takes it for
        gated(act)
        third = name == "gemma3_text"
        return cls(
            vocab_size=take(hf, "vocab_size", int),
            dim=take(hf, "hidden_size", int),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            hidden=take(hf, "intermediate_size", int),
            act=act,
            norm_eps=take(hf, "rms_norm_eps", float),
            scale=take(hf, "query_pre_attn_scalar", float, float(head_dim)) ** -0.5,
            windows=_windows(hf, layers) if name != "gemma" else (None,) * layers,
            ropes=two_ropes(hf, head_dim) if third else (RopeConfig.from_hf(hf, head_dim).fixed(),) * 2,
            bias=take(hf, "attention_bias", bool, False),
            has_post_norms=name != "gemma",
            qk_norm=third,
            # the reference of Gemma 3 reads both caps and applies neither
            softcap=take(hf, "attn_logit_softcapping", float, None) if name == "gemma2" else None,
            logit_cap=take(hf, "final_logit_softcapping", float, None) if name == "gemma2" else None,
            blocks_beyond_window=blocks_beyond_window,
            tied=tied,
        )

    def attention(self, layer: int) -> AttentionShape:
        return AttentionShape(
            self.dim,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            qkv_bias=self.bias,
            out_bias=self.bias,
            qk_norm_eps=self.norm_eps if self.qk_norm else None,
            scale=self.scale,
            window=self.windows[layer],
            softcap=self.softcap,
            blocks_beyond_window=self.blocks_beyond_window,
        )


def _windows(hf: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    window, every = take(hf, "sliding_window", int), take(hf, "sliding_window_pattern", int)
    types = hf.get("layer_types")
    if types is None:
        return tuple(window if (layer + 1) % every else None for layer in range(layers))
    check(len(types) == layers, f"layer_types names {len(types)} layers of {layers}")
    for kind in set(types):
        expect({"layer_types": kind}, "layer_types", "full_attention", "sliding_attention")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def two_ropes(hf: Mapping[str, Any], head_dim: int) -> tuple[RopeConfig, RopeConfig]:
    """Of full and of sliding layers: by kind of layer as transformers 5 saves them, or rope_theta and rope_local_base_freq."""
    if isinstance(hf.get("rope_parameters"), Mapping):
        full, local = (
            RopeConfig.from_hf(hf, head_dim, layer_type=kind).fixed()
            for kind in ("full_attention", "sliding_attention")
        )
        return full, local
    base = take(hf, "rope_local_base_freq", float)
    return RopeConfig.from_hf(hf, head_dim).fixed(), RopeConfig(head_dim, base)


class GemmaAttention(CausalAttention):
    def __init__(self, config: GemmaConfig, layer: int) -> None:
        super().__init__(config.attention(layer))
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps, offset=1.0)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps, offset=1.0)


class GemmaLayer(nn.Module):
    def __init__(self, config: GemmaConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = GemmaAttention(config, layer)
        self.mlp = GatedMlp(config.dim, config.hidden, config.act)
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps, offset=1.0)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps, offset=1.0)
        self.has_post_norms = config.has_post_norms
        if config.has_post_norms:
            self.pre_feedforward_layernorm = RMSNorm(config.dim, config.norm_eps, offset=1.0)
            self.post_feedforward_layernorm = RMSNorm(config.dim, config.norm_eps, offset=1.0)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        attended = self.self_attn(self.input_layernorm(x), tables, plan, cache)
        if not self.has_post_norms:
            x = x + attended
            return x + self.mlp(self.post_attention_layernorm(x))
        x = x + self.post_attention_layernorm(attended)
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class GemmaDecoder(nn.Module):
    """Embeddings are scaled by `embed`; media rows are put among them unscaled."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.dim)
        self.layers = [GemmaLayer(config, layer) for layer in range(config.num_layers)]
        self.norm = RMSNorm(config.dim, config.norm_eps, offset=1.0)
        if not config.tied:
            self.lm_head = Linear(config.dim, config.vocab_size, bias=False)
        self._ropes = tuple(Rope(rope) for rope in config.ropes)

    def embed(self, tokens: mx.array) -> mx.array:
        """[B, L] -> [B, L, dim]. Ids beyond the table (media tokens of some files) read row 0."""
        known = mx.where(tokens < self.config.vocab_size, tokens, 0)
        embeds = self.embed_tokens(known)
        # the factor is rounded to the weights' type, as the reference does
        return embeds * mx.array(self.config.dim**0.5, embeds.dtype)

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
    ) -> Output:
        x = inputs.embeds
        full, local = (rope(positions) for rope in self._ropes)
        for layer, layer_cache, window in zip(self.layers, cache, self.config.windows, strict=True):
            x = layer(x, full if window is None else local, attention, layer_cache)
        hidden = self.norm(x)
        rows = selected(hidden, select)
        logits = self.embed_tokens.as_linear(rows) if self.config.tied else self.lm_head(rows)
        cap = self.config.logit_cap
        return Output(logits if cap is None else mx.tanh(logits / cap) * cap, hidden)

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        heads, size = self.config.num_kv_heads, self.config.head_dim
        return tuple(
            Full(heads, size, size) if window is None else Window(window, heads, size, size)
            for window in self.config.windows
        )
