"""Gemma 4: sandwich norms, values normed without weight, full layers with heads of their own size and a partly turning rotary
embedding, sliding layers in which a picture sees itself both ways.

Large models: full layers whose values are their keys; experts beside the perceptron. E-series: an embedding per layer fed in
behind each layer, and last layers that attend over the keys of earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rms_norm, rope

from ..core.attention import Attention, AttentionRules
from ..core.cache import CacheSpec, Full, Shared, Window
from ..core.config import check, expect, sub, take
from ..core.inputs import Inputs, Output
from ..core.model import Select, selected
from ..core.weights import Drop, DropCopy, Rename, Rule
from ..layers.activation import activation
from ..layers.attention import Tables, merge_heads, split_heads
from ..layers.linear import Embedding, Linear
from ..layers.mlp import GatedMlp, gated
from ..layers.moe import Experts, combine, expert_rules, softmax_route
from ..layers.norm import RMSNorm
from ..layers.rope import Rope, RopeConfig

PER_LAYER = "per_layer"
_ROPES = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


@dataclass(frozen=True)
class Gemma4Experts:
    num_experts: int
    num_chosen: int
    hidden: int


@dataclass(frozen=True)
class Gemma4Config:
    """Per layer: windows (None: full attention), heads as (key heads, head size), sources (the earlier layer whose keys it
    reads, or None) and hidden sizes. blocks_everywhere: pictures see themselves in full layers too, and beyond windows.
    ropes: of full and of sliding layers. per_layer: size of the embeddings per layer, 0 without; per_layer_vocab: entries
    of their table."""

    vocab_size: int
    dim: int
    num_heads: int
    act: str
    norm_eps: float
    windows: tuple[int | None, ...]
    heads: tuple[tuple[int, int], ...]
    sources: tuple[int | None, ...]
    hidden: tuple[int, ...]
    ropes: tuple[RopeConfig, RopeConfig]
    k_eq_v: bool
    sees_blocks: bool
    blocks_everywhere: bool
    logit_cap: float | None
    pad: int
    per_layer: int
    per_layer_vocab: int
    experts: Gemma4Experts | None

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    @classmethod
    def from_hf(
        cls, hf: Mapping[str, Any], *, blocks: str | None = None, per_layer: int = 256, blocks_everywhere: bool = False
    ) -> Gemma4Config:
        """From a text_config. blocks, per_layer: what the class assumes where the file has no use_bidirectional_attention or
        hidden_size_per_layer_input. Raises ConfigError."""
        expect(hf, "attention_bias", False)
        layers, heads = take(hf, "num_hidden_layers", int, 30), take(hf, "num_attention_heads", int, 8)
        kinds = _kinds(hf, layers)
        window = take(hf, "sliding_window", int, 512)
        shared = take(hf, "num_kv_shared_layers", int, 0)
        sources = shared_sources(kinds, shared)
        hidden = take(hf, "intermediate_size", int, 9216)
        wide = take(hf, "use_double_wide_mlp", bool, False)
        k_eq_v = take(hf, "attention_k_eq_v", bool, False)
        sizes = _heads(hf, kinds, k_eq_v)
        for kv_heads, _ in sizes:
            check(heads % kv_heads == 0, f"{heads} heads cannot share {kv_heads} key heads")
        act = take(hf, "hidden_activation", str, "gelu_pytorch_tanh")
        gated(act)
        seen = expect({"use_bidirectional_attention": hf.get("use_bidirectional_attention", blocks)},
                      "use_bidirectional_attention", None, "vision")  # fmt: skip
        moe = None
        if take(hf, "enable_moe_block", bool, False):
            moe = Gemma4Experts(*(take(hf, k, int) for k in ("num_experts", "top_k_experts", "moe_intermediate_size")))
        return cls(
            vocab_size=take(hf, "vocab_size", int, 262_144),
            dim=take(hf, "hidden_size", int, 2304),
            num_heads=heads,
            act=act,
            norm_eps=take(hf, "rms_norm_eps", float, 1e-6),
            windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
            heads=sizes,
            sources=sources,
            hidden=tuple(hidden * (2 if wide and source is not None else 1) for source in sources),
            ropes=_ropes(hf, kinds, sizes),
            k_eq_v=k_eq_v,
            sees_blocks=seen == "vision",
            blocks_everywhere=blocks_everywhere,
            logit_cap=take(hf, "final_logit_softcapping", float, None),
            pad=take(hf, "pad_token_id", int, 0),
            per_layer=take(hf, "hidden_size_per_layer_input", int, per_layer),
            per_layer_vocab=take(hf, "vocab_size_per_layer_input", int, 262_144),
            experts=moe,
        )


def _kinds(hf: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    types = hf.get("layer_types") or ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]
    check(len(types) == layers, f"layer_types names {len(types)} layers of {layers}")
    for kind in types:
        expect({"layer_types": kind}, "layer_types", "full_attention", "sliding_attention")
    # the reference makes the last layer a full one whatever the file says
    return (*types[:-1], "full_attention")


def _heads(hf: Mapping[str, Any], kinds: Sequence[str], k_eq_v: bool) -> tuple[tuple[int, int], ...]:
    """Key heads and head size of each layer: published files name those of full layers, saved ones list them by layer."""
    common = take(hf, "num_key_value_heads", int, 4), take(hf, "head_dim", int, 256)
    wide = take(hf, "num_global_key_value_heads", int, None) if k_eq_v else None
    full = common[0] if wide is None else wide, take(hf, "global_head_dim", int, 512)
    listed = hf.get("per_layer_config")
    if listed is None:
        return tuple(full if kind == "full_attention" else common for kind in kinds)
    own = [sub(listed, str(i)) if str(i) in listed else {} for i in range(len(kinds))]
    return tuple((take(o, "num_key_value_heads", int, common[0]), take(o, "head_dim", int, common[1])) for o in own)


def shared_sources(kinds: Sequence[str], shared: int) -> tuple[int | None, ...]:
    """For each of the last `shared` layers the last one before them of its kind; None for the others."""
    first = len(kinds) - shared
    last = {kind: index for index, kind in enumerate(kinds[:first])}
    check(set(kinds[first:]) <= set(last), "layers that share keys have no earlier layer of their kind")
    return tuple(None if i < first else last[kind] for i, kind in enumerate(kinds))


def _ropes(
    hf: Mapping[str, Any], kinds: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> tuple[RopeConfig, RopeConfig]:
    given = {**hf, "rope_parameters": hf.get("rope_parameters") or _ROPES}

    def of(kind: str) -> RopeConfig:
        dims = {size for (_, size), own in zip(sizes, kinds, strict=True) if own == kind}
        check(len(dims) <= 1, f"{kind} layers have heads of different sizes {sorted(dims)}")
        return RopeConfig.from_hf(given, dims.pop() if dims else 2, layer_type=kind).fixed()

    return of("full_attention"), of("sliding_attention")


class Gemma4Attention(nn.Module):
    """A layer that reads another's keys has no k_proj, v_proj, k_norm; where values are keys there is no v_proj."""

    def __init__(self, config: Gemma4Config, layer: int) -> None:
        super().__init__()
        self.num_heads, self.eps = config.num_heads, config.norm_eps
        self.num_kv_heads, size = config.heads[layer]
        window = config.windows[layer]
        everywhere = config.blocks_everywhere
        sees = config.sees_blocks and (everywhere or window is not None)
        self.rules = AttentionRules(1.0, window, None, sees, blocks_beyond_window=everywhere)
        self.q_proj = Linear(config.dim, config.num_heads * size, bias=False)
        self.q_norm = RMSNorm(size, config.norm_eps)
        self.o_proj = Linear(config.num_heads * size, config.dim, bias=False)
        if config.sources[layer] is None:
            self.k_proj = Linear(config.dim, self.num_kv_heads * size, bias=False)
            self.k_norm = RMSNorm(size, config.norm_eps)
            if not config.k_eq_v or window is not None:
                self.v_proj = Linear(config.dim, self.num_kv_heads * size, bias=False)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any) -> mx.array:
        """x: [B, L, dim]. tables: cos, sin [B, L, head size / 2]."""
        q = rope(self.q_norm(split_heads(self.q_proj(x), self.num_heads)), *tables)
        k = v = None
        if "k_proj" in self:
            k = split_heads(self.k_proj(x), self.num_kv_heads)
            v = split_heads(self.v_proj(x), self.num_kv_heads) if "v_proj" in self else k
            k, v = rope(self.k_norm(k), *tables), rms_norm(v, None, self.eps)
        return self.o_proj(merge_heads(cache.attend(q, k, v, plan, self.rules)))


class Router(nn.Module):
    """Which experts a token runs through, and how much each counts."""

    def __init__(self, config: Gemma4Config, experts: Gemma4Experts) -> None:
        super().__init__()
        self.proj = Linear(config.dim, experts.num_experts, bias=False)
        self.scale = mx.ones((config.dim,))
        self.per_expert_scale = mx.ones((experts.num_experts,))
        self.eps, self.num_chosen, self.root = config.norm_eps, experts.num_chosen, config.dim**-0.5

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        logits = self.proj(rms_norm(x, None, self.eps) * self.scale * self.root)
        indices, weights = softmax_route(logits, self.num_chosen, renormalize=True)
        return indices, weights * self.per_expert_scale[indices]


class Gemma4Layer(nn.Module):
    """Names are the checkpoint's; `_1` and `_2` are the norms around perceptron and experts."""

    def __init__(self, config: Gemma4Config, layer: int) -> None:
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.self_attn = Gemma4Attention(config, layer)
        self.mlp = GatedMlp(dim, config.hidden[layer], config.act)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.layer_scalar = mx.ones((1,))
        if config.experts is not None:
            self.router = Router(config, config.experts)
            self.experts = Experts(config.experts.num_experts, dim, config.experts.hidden, config.act)
            self.post_feedforward_layernorm_1, self.post_feedforward_layernorm_2 = RMSNorm(dim, eps), RMSNorm(dim, eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(dim, eps)
        if config.per_layer:
            self.per_layer_input_gate = Linear(dim, config.per_layer, bias=False)
            self.per_layer_projection = Linear(config.per_layer, dim, bias=False)
            self.post_per_layer_input_norm = RMSNorm(dim, eps)
            self._act = activation(config.act)

    def __call__(
        self, x: mx.array, tables: Tables, plan: Attention, cache: Any, extra: mx.array | None = None
    ) -> mx.array:
        """extra: [B, L, per_layer], this layer's embeddings."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), tables, plan, cache))
        y = self.mlp(self.pre_feedforward_layernorm(x))
        if "experts" in self:
            indices, weights = self.router(x)
            mixed = combine(self.experts(self.pre_feedforward_layernorm_2(x), indices), weights)
            y = self.post_feedforward_layernorm_1(y) + self.post_feedforward_layernorm_2(mixed)
        x = x + self.post_feedforward_layernorm(y)
        if extra is not None:
            fed = self.per_layer_projection(self._act(self.per_layer_input_gate(x)) * extra)
            x = x + self.post_per_layer_input_norm(fed)
        return x * self.layer_scalar


class Gemma4Decoder(nn.Module):
    """Text embeddings are scaled; what stands for media comes scaled as it is."""

    def __init__(self, config: Gemma4Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.dim)
        self.layers = [self._layer(layer) for layer in range(config.num_layers)]
        self.norm = RMSNorm(config.dim, config.norm_eps)
        if config.per_layer:
            width = config.num_layers * config.per_layer
            self.embed_tokens_per_layer = Embedding(config.per_layer_vocab, width)
            self.per_layer_model_projection = Linear(config.dim, width, bias=False)
            self.per_layer_projection_norm = RMSNorm(config.per_layer, config.norm_eps)
        self._ropes = tuple(Rope(rope) for rope in config.ropes)

    def _layer(self, layer: int) -> nn.Module:
        return Gemma4Layer(self.config, layer)

    def embed(self, tokens: mx.array) -> mx.array:
        """[B, L] -> [B, L, dim]."""
        embeds = self.embed_tokens(tokens)
        # the factor is rounded to the weights' type, as the reference does
        return embeds * mx.array(self.config.dim**0.5, embeds.dtype)

    def per_layer(self, tokens: mx.array, embeds: mx.array) -> mx.array:
        """[B, L, layers, per_layer] of tokens [B, L] and what stands for them, media rows included, [B, L, dim]."""
        config = self.config
        shape = (*tokens.shape, config.num_layers, config.per_layer)
        own = self.embed_tokens_per_layer(tokens).reshape(shape)
        own = own * mx.array(config.per_layer**0.5, own.dtype)
        seen = (self.per_layer_model_projection(embeds) * config.dim**-0.5).reshape(shape)
        return (self.per_layer_projection_norm(seen) + own) * 2**-0.5

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
        extra = inputs.per_token.get(PER_LAYER)
        full, local = (rope(positions) for rope in self._ropes)
        for i, (layer, layer_cache) in enumerate(zip(self.layers, cache, strict=True)):
            own = None if extra is None else extra[:, :, i]
            x = layer(x, full if config.windows[i] is None else local, attention, layer_cache, own)
        hidden = self.norm(x)
        return Output(self.head(selected(hidden, select)), hidden)

    def head(self, hidden: mx.array) -> mx.array:
        """[B, n, dim] -> logits [B, n, V], softly capped."""
        logits, cap = self.embed_tokens.as_linear(hidden), self.config.logit_cap
        return logits if cap is None else mx.tanh(logits / cap) * cap

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        return tuple(self._remembers(layer) for layer in range(self.config.num_layers))

    def _remembers(self, layer: int) -> CacheSpec:
        config = self.config
        source, window, (heads, size) = config.sources[layer], config.windows[layer], config.heads[layer]
        if source is not None:
            return Shared(source)
        return Full(heads, size, size) if window is None else Window(window, heads, size, size)


def gemma4_rules(config: Gemma4Config) -> tuple[Rule, ...]:
    """Names of the text side: `model.language_model.*`, `language_model.model.*`; keys that no layer uses fall away."""
    unused = [i for i, source in enumerate(config.sources) if source is not None]
    return (
        Rename("model.language_model.*", "language_model.*"),
        Rename("language_model.model.*", "language_model.*"),
        Rename("lm_head.*", "language_model.lm_head.*"),
        DropCopy("language_model.lm_head", "language_model.embed_tokens"),
        *(Drop(f"language_model.layers.{i}.self_attn.{n}.*") for i in unused for n in ("k_proj", "v_proj", "k_norm")),
        Rename("*.experts.switch_glu.*", "*.experts.*"),
        *expert_rules(),
    )
