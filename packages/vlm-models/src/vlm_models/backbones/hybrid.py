"""Qwen3.5's decoder: layers of gated delta attention, every few of them one of full attention with gated output.

Norms multiply by 1 + weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rope

from ..core.attention import Attention, AttentionRules
from ..core.cache import AttentionCache, CacheSpec, Full
from ..core.config import check, expect, take
from ..core.weights import Drop, Flatten, Rule, Shapes, Tensors
from ..layers.attention import AttentionShape, Tables, merge_heads, split_heads
from ..layers.gated_delta import GatedDelta, GatedDeltaConfig
from ..layers.linear import Linear
from ..layers.mlp import GatedMlp
from ..layers.moe import Moe, MoeConfig
from ..layers.norm import RMSNorm
from .decoder import Decoder, DecoderConfig


@dataclass(frozen=True)
class HybridConfig(DecoderConfig):
    """linear: per layer, whether it is one of gated delta attention. moe: experts of every layer, None for a gated MLP."""

    delta: GatedDeltaConfig | None = None
    linear: tuple[bool, ...] = ()
    moe: MoeConfig | None = None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **fixed: Any) -> HybridConfig:
        expect(hf, "attn_output_gate", True)
        num_layers = take(hf, "num_hidden_layers", int)
        bias = take(hf, "attention_bias", bool, False)
        has_experts = "num_experts" in hf
        values = {"head_dim": 256, "partial_rotary_factor": 0.25, "intermediate_size": 0 if has_experts else None, **hf}
        values["layer_types"] = None  # kinds of its own
        windows = (None,) * num_layers
        base = DecoderConfig.from_hf(values, qkv_bias=bias, out_bias=bias, windows=windows, **fixed)
        sections = base.rope.sections or (11, 11, 10)
        check(sum(sections) == base.rope.dim // 2, f"mrope_section {sections} must sum to {base.rope.dim // 2}")
        own = {
            "rope": replace(base.rope.fixed(), sections=sections, interleaved=True),
            "delta": _delta(hf, base),
            "linear": _linear_layers(hf, num_layers),
            "moe": _experts(hf, base) if has_experts else None,
        }
        return cls(**{part.name: getattr(base, part.name) for part in fields(base)} | own)


def _delta(hf: Mapping[str, Any], config: DecoderConfig) -> GatedDeltaConfig:
    keys, values = take(hf, "linear_num_key_heads", int, 16), take(hf, "linear_num_value_heads", int, 32)
    check(values % keys == 0, f"{values} value heads cannot share {keys} key heads")
    return GatedDeltaConfig(
        config.dim,
        keys,
        values,
        take(hf, "linear_key_head_dim", int, 128),
        take(hf, "linear_value_head_dim", int, 128),
        take(hf, "linear_conv_kernel_dim", int, 4),
        config.act,
        config.norm_eps,
    )


def _linear_layers(hf: Mapping[str, Any], num_layers: int) -> tuple[bool, ...]:
    types = hf.get("layer_types")
    if types is None:
        interval = take(hf, "full_attention_interval", int, 4)
        return tuple((layer + 1) % interval != 0 for layer in range(num_layers))
    check(len(types) == num_layers, f"layer_types names {len(types)} layers of {num_layers}")
    for kind in set(types):
        expect({"layer_types": kind}, "layer_types", "linear_attention", "full_attention")
    return tuple(kind == "linear_attention" for kind in types)


def _experts(hf: Mapping[str, Any], config: DecoderConfig) -> MoeConfig:
    num_experts, chosen = take(hf, "num_experts", int), take(hf, "num_experts_per_tok", int)
    check(0 < chosen <= num_experts, f"num_experts_per_tok {chosen} of {num_experts} experts")
    hidden = take(hf, "moe_intermediate_size", int)
    shared = take(hf, "shared_expert_intermediate_size", int)
    return MoeConfig(num_experts, chosen, config.dim, hidden, config.act, shared=shared)


class GatedAttention(nn.Module):
    """Grouped-query attention whose output is multiplied by the sigmoid of a gate that comes with the queries."""

    def __init__(self, shape: AttentionShape, norm_eps: float) -> None:
        super().__init__()
        self.shape = shape
        self.rules = AttentionRules(shape.head_dim**-0.5)
        self.q_proj = Linear(shape.dim, 2 * shape.num_heads * shape.head_dim, bias=shape.qkv_bias)
        self.k_proj = Linear(shape.dim, shape.num_kv_heads * shape.head_dim, bias=shape.qkv_bias)
        self.v_proj = Linear(shape.dim, shape.num_kv_heads * shape.head_dim, bias=shape.qkv_bias)
        self.o_proj = Linear(shape.num_heads * shape.head_dim, shape.dim, bias=shape.out_bias)
        self.q_norm = RMSNorm(shape.head_dim, norm_eps, offset=1)
        self.k_norm = RMSNorm(shape.head_dim, norm_eps, offset=1)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: AttentionCache) -> mx.array:
        """x: [B, L, dim]."""
        shape = self.shape
        q, gate = mx.split(split_heads(self.q_proj(x), shape.num_heads), 2, axis=-1)
        k = split_heads(self.k_proj(x), shape.num_kv_heads)
        v = split_heads(self.v_proj(x), shape.num_kv_heads)
        q, k = rope(self.q_norm(q), *tables), rope(self.k_norm(k), *tables)
        out = cache.attend(q, k, v, plan, self.rules)
        return self.o_proj(merge_heads(out * mx.sigmoid(gate)))


class HybridLayer(nn.Module):
    def __init__(self, config: HybridConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps, offset=1)
        if config.linear[layer]:
            assert config.delta is not None
            self.linear_attn = GatedDelta(config.delta)
        else:
            self.self_attn = GatedAttention(config.attention(layer), config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps, offset=1)
        self.mlp = GatedMlp(config.dim, config.hidden, config.act) if config.moe is None else Moe(config.moe)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        h = self.input_layernorm(x)
        x = x + (self.linear_attn(h, cache) if "linear_attn" in self else self.self_attn(h, tables, plan, cache))
        return x + self.mlp(self.post_attention_layernorm(x))


class HybridDecoder(Decoder):
    config: HybridConfig

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(replace(config, num_layers=0))
        self.config = config
        self.layers = [HybridLayer(config, layer) for layer in range(config.num_layers)]
        self.norm = RMSNorm(config.dim, config.norm_eps, offset=1)

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        config = self.config
        assert config.delta is not None
        full = Full(config.num_kv_heads, config.head_dim, config.head_dim)
        return tuple(config.delta.cache() if is_linear else full for is_linear in config.linear)


@dataclass(frozen=True)
class LowerNorms:
    """MLX conversions by other tools store 1 + weight for the norms, and convolutions as [channels, taps, 1], by which they
    are told apart from the files of this project and from published ones."""

    suffixes: Sequence[str] = ("layernorm.weight", "language_model.norm.weight", "q_norm.weight", "k_norm.weight")

    def apply(self, tensors: Tensors, wanted: Shapes, is_mlx: bool) -> Tensors:
        taps = [v.shape for n, v in tensors.items() if n.endswith("linear_attn.conv1d.weight") and v.ndim == 3]
        if not is_mlx or not taps or any(shape[-1] != 1 for shape in taps):
            return tensors
        text = {n for n in tensors if n.startswith("language_model.") and n.endswith(tuple(self.suffixes))}
        return {n: v - 1 if n in text else v for n, v in tensors.items()}


def hybrid_rules() -> tuple[Rule, ...]:
    """For names that already start with language_model. `mtp.*` serves multi-token prediction, which nothing reads."""
    return (Drop("mtp.*"), Drop("*.mtp.*"), LowerNorms(), Flatten("*.linear_attn.conv1d.weight"))
