"""Gemma 3n: Gemma 4's attention and embeddings per layer, around which several versions of the hidden state run side by side.

Alternating updates (arXiv:2301.13310): each layer predicts all versions from all, runs one of them, and corrects all by what it
found. A low-rank path beside attention (LAuReL, arXiv:2411.07501). Sparse perceptrons: in some layers only gates far above their
mean count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.attention import Attention
from ..core.config import check, expect, take
from ..core.inputs import Inputs, Output
from ..core.model import Select, selected
from ..layers.activation import activation
from ..layers.attention import Tables
from ..layers.linear import Linear
from ..layers.mlp import GatedMlp, gated
from ..layers.norm import RMSNorm
from .gemma import two_ropes
from .gemma4 import PER_LAYER, Gemma4Attention, Gemma4Config, Gemma4Decoder, shared_sources

_THETAS = {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}


@dataclass(frozen=True)
class Gemma3nConfig(Gemma4Config):
    """versions: of the hidden state; active: the one that layers run. scales_active: whether it is scaled before it meets the
    layer's embeddings. rank: of the path beside attention. sparsity: share of gates cut, per layer."""

    versions: int
    active: int
    scales_active: bool
    rank: int
    sparsity: tuple[float, ...]

    @classmethod
    def of(cls, hf: Mapping[str, Any]) -> Gemma3nConfig:
        """From a text_config. Raises ConfigError."""
        expect(hf, "model_type", "gemma3n_text")
        expect(hf, "attention_bias", False)
        layers, heads = take(hf, "num_hidden_layers", int, 35), take(hf, "num_attention_heads", int, 8)
        kv_heads, size = take(hf, "num_key_value_heads", int, 2), take(hf, "head_dim", int, 256)
        check(heads % kv_heads == 0, f"{heads} heads cannot share {kv_heads} key heads")
        kinds = hf.get("layer_types") or [
            "full_attention" if i % 5 == 4 else "sliding_attention" for i in range(layers)
        ]
        check(len(kinds) == layers, f"layer_types names {len(kinds)} layers of {layers}")
        for kind in kinds:
            expect({"layer_types": kind}, "layer_types", "full_attention", "sliding_attention")
        hidden: int | Sequence[int] = take(hf, "intermediate_size", (int, list, tuple), 16_384)
        sizes = (hidden,) * layers if isinstance(hidden, int) else tuple(hidden)
        check(len(sizes) == layers, f"intermediate_size names {len(sizes)} layers of {layers}")
        sparse = 10 if layers > 10 else 0
        sparsity = hf.get("activation_sparsity_pattern") or [0.95] * sparse + [0.0] * (layers - sparse)
        check(
            len(sparsity) == layers and all(0 <= share < 1 for share in sparsity),
            f"activation_sparsity_pattern must name {layers} shares from 0 to below 1, found {sparsity}",
        )
        window = take(hf, "sliding_window", int, 512)
        act = take(hf, "hidden_activation", str, "gelu_pytorch_tanh")
        gated(act)
        versions, active = take(hf, "altup_num_inputs", int, 4), take(hf, "altup_active_idx", int, 0)
        check(0 <= active < versions, f"altup_active_idx {active} is none of {versions} inputs")
        return cls(
            vocab_size=take(hf, "vocab_size", int, 262_400),
            dim=take(hf, "hidden_size", int, 2048),
            num_heads=heads,
            act=act,
            norm_eps=take(hf, "rms_norm_eps", float, 1e-6),
            windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
            heads=((kv_heads, size),) * layers,
            sources=shared_sources(kinds, take(hf, "num_kv_shared_layers", int, 15)),
            hidden=sizes,
            ropes=two_ropes(_THETAS | {key: value for key, value in hf.items() if value is not None}, size),
            k_eq_v=False,
            sees_blocks=False,
            blocks_everywhere=False,
            logit_cap=take(hf, "final_logit_softcapping", float, None if "final_logit_softcapping" in hf else 30.0),
            pad=take(hf, "pad_token_id", int, 0),
            per_layer=take(hf, "hidden_size_per_layer_input", int, 256),
            per_layer_vocab=take(hf, "vocab_size_per_layer_input", int, 262_144),
            experts=None,
            versions=versions,
            active=active,
            scales_active=take(hf, "altup_correct_scale", bool, True),
            rank=take(hf, "laurel_rank", int, 64),
            sparsity=tuple(float(share) for share in sparsity),
        )


class SparseMlp(GatedMlp):
    """Of the gates only what stands above mean + deviation * quantile counts, `share` of a normal distribution lying below."""

    def __init__(self, dim: int, hidden: int, act: str, share: float) -> None:
        super().__init__(dim, hidden, act)
        self.quantile = NormalDist().inv_cdf(share) if share else None

    def __call__(self, x: mx.array) -> mx.array:
        gate = self.gate_proj(x)
        if self.quantile is not None:
            wide = gate.astype(mx.float32)
            cut = wide.mean(axis=-1, keepdims=True) + mx.std(wide, axis=-1, keepdims=True) * self.quantile
            gate = mx.maximum(gate - cut.astype(gate.dtype), 0)
        return self.down_proj(self._gated(gate, self.up_proj(x)))


class LowRank(nn.Module):
    """x + norm(right(left(x)))."""

    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__()
        self.linear_left = Linear(config.dim, config.rank, bias=False)
        self.linear_right = Linear(config.rank, config.dim, bias=False)
        self.post_laurel_norm = RMSNorm(config.dim, config.norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.post_laurel_norm(self.linear_right(self.linear_left(x)))


class AlternatingUpdates(nn.Module):
    """Versions of the hidden state are [B, L, versions, dim]; what runs through the layer says how they mix."""

    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__()
        count = config.versions
        self.correct_output_scale = mx.ones((config.dim,))
        self.correction_coefs = Linear(count, count, bias=False)
        self.prediction_coefs = Linear(count, count * count, bias=False)
        self.modality_router = Linear(config.dim, count, bias=False)
        self.router_norm = RMSNorm(config.dim, config.norm_eps)
        self.versions, self.active = count, config.active

    def _route(self, x: mx.array) -> mx.array:
        """[B, L, dim] -> [B, L, versions]."""
        routed = self.modality_router(self.router_norm(x) * (1 / x.shape[-1]))
        return mx.tanh(routed.astype(mx.float32)).astype(x.dtype)

    def predict(self, states: mx.array) -> mx.array:
        mixing = self.prediction_coefs(self._route(states[:, :, self.active]))
        return states + mixing.reshape(*mixing.shape[:2], self.versions, self.versions) @ states

    def correct(self, predicted: mx.array, found: mx.array) -> mx.array:
        """found: [B, L, dim], what the layer made of the active version."""
        news = found - predicted[:, :, self.active]
        return predicted + (self.correction_coefs(self._route(found)) + 1)[..., None] * news[:, :, None]


class Gemma3nLayer(nn.Module):
    def __init__(self, config: Gemma3nConfig, layer: int) -> None:
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.altup, self.laurel = AlternatingUpdates(config), LowRank(config)
        self.self_attn = Gemma4Attention(config, layer)
        self.mlp = SparseMlp(dim, config.hidden[layer], config.act, config.sparsity[layer])
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.per_layer_input_gate = Linear(dim, config.per_layer, bias=False)
        self.per_layer_projection = Linear(config.per_layer, dim, bias=False)
        self.post_per_layer_input_norm = RMSNorm(dim, eps)
        self.active, self.scales_active = config.active, config.scales_active
        self._act = activation(config.act)

    def __call__(self, states: mx.array, tables: Tables, plan: Attention, cache: Any, extra: mx.array) -> mx.array:
        """states: [B, L, versions, dim]. extra: [B, L, per_layer], this layer's embeddings."""
        predicted = self.altup.predict(states)
        x = predicted[:, :, self.active]
        normed = self.input_layernorm(x)
        attended = x + self.post_attention_layernorm(self.self_attn(normed, tables, plan, cache))
        x = (attended + self.laurel(normed)) * (1 / math.sqrt(2))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        corrected = self.altup.correct(predicted, x)
        first = corrected[:, :, self.active]
        if self.scales_active:
            first = first * self.altup.correct_output_scale
        fed = self.per_layer_projection(self._act(self.per_layer_input_gate(first)) * extra)
        fed = self.post_per_layer_input_norm(fed)[:, :, None]
        return mx.concatenate([corrected[:, :, :1], corrected[:, :, 1:] + fed], axis=2)


def as_loud(x: mx.array, other: mx.array) -> mx.array:
    """x at the root mean square of `other`."""
    have = mx.sqrt(mx.maximum(mx.square(x).mean(axis=-1, keepdims=True), 1e-5))
    return x * mx.sqrt(mx.square(other).mean(axis=-1, keepdims=True)) / have


class Gemma3nDecoder(Gemma4Decoder):
    """Embeddings, those per layer, head and caches are Gemma 4's."""

    config: Gemma3nConfig

    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__(config)
        others = range(config.versions - 1)
        self.altup_projections = [Linear(config.dim, config.dim, bias=False) for _ in others]
        self.altup_unembed_projections = [Linear(config.dim, config.dim, bias=False) for _ in others]

    def _layer(self, layer: int) -> nn.Module:
        return Gemma3nLayer(self.config, layer)

    def per_layer(self, tokens: mx.array, embeds: mx.array) -> mx.array:
        """Tokens beyond the table of embeddings per layer read its row 0."""
        return super().per_layer(mx.where(tokens < self.config.per_layer_vocab, tokens, 0), embeds)

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
    ) -> Output:
        x, config = inputs.embeds, self.config
        extra = inputs.per_token[PER_LAYER]
        states = mx.stack([x, *(as_loud(project(x), x) for project in self.altup_projections)], axis=2)
        full, local = (rope(positions) for rope in self._ropes)
        for i, (layer, layer_cache) in enumerate(zip(self.layers, cache, strict=True)):
            tables = full if config.windows[i] is None else local
            states = layer(states, tables, attention, layer_cache, extra[:, :, i])
        first, *rest = (states[:, :, i] for i in range(config.versions))
        back = zip(self.altup_unembed_projections, rest, strict=True)
        joined = first + sum(as_loud(project(state), first) for project, state in back)
        hidden = self.norm(joined * (1 / config.versions))
        return Output(self.head(selected(hidden, select)), hidden)
