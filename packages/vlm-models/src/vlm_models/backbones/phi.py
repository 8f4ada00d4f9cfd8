"""Phi-3's decoder with low-rank branches (Phi-4 Multimodal, arXiv:2503.01743): every projection has one base map and, by name,
corrections that a row of a batch may run through. Projections of q, k, v and of gate and up are fused, as in the checkpoint.

A row's `adapter` is names joined by `+`: a branch (which a checkpoint may have merged, and then has not), and `long` for prompts
and answers beyond the length trained first, which turn by the other rotary factors (LongRoPE, arXiv:2402.13753).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rope, swiglu

from ..core.attention import Attention, AttentionRules
from ..core.cache import CacheSpec, Full, Window
from ..core.config import check, expect, sub, take
from ..core.inputs import Inputs, Output
from ..core.model import Select, selected
from ..layers.attention import Tables, merge_heads, split_heads
from ..layers.linear import Embedding, Linear
from ..layers.norm import RMSNorm
from ..layers.rope import Rope, RopeConfig

LONG = "long"
# per branch that any row runs through: its name, and 1 for the rows that do [B, 1, 1], None where all do
Chosen = Sequence[tuple[str, mx.array | None]]


@dataclass(frozen=True)
class Branch:
    """scale: factor on the correction."""

    rank: int
    scale: float

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Branch:
        rank = take(hf, "r", int)
        return cls(rank, take(hf, "lora_alpha", float) / rank)


@dataclass(frozen=True)
class PhiConfig:
    """trained: length up to which the short rotary factors serve. branches: by name, none where the checkpoint is merged."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    norm_eps: float
    rope: RopeConfig
    trained: int
    window: int | None
    tied: bool
    branches: Mapping[str, Branch]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], branches: Mapping[str, str]) -> PhiConfig:
        """branches: name -> key of its settings, read where the file has them. Raises ConfigError."""
        dim, num_heads = take(hf, "hidden_size", int), take(hf, "num_attention_heads", int)
        num_kv_heads = take(hf, "num_key_value_heads", int, num_heads)
        head_dim = take(hf, "head_dim", int, dim // num_heads)
        check(num_heads % num_kv_heads == 0, f"{num_heads} heads cannot share {num_kv_heads} key heads")
        expect(hf, "hidden_act", "silu", "swish")
        most = take(hf, "max_position_embeddings", int, 131_072)
        given = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
        trained = given.get("original_max_position_embeddings") or take(
            hf, "original_max_position_embeddings", int, most
        )
        given["original_max_position_embeddings"] = trained
        turning = RopeConfig.from_hf({**hf, "rope_parameters": given}, head_dim)
        expect({"rope_type": turning.kind}, "rope_type", "default", "longrope")
        window = take(hf, "sliding_window", int, None)
        return cls(
            take(hf, "vocab_size", int),
            dim,
            take(hf, "num_hidden_layers", int),
            num_heads,
            num_kv_heads,
            head_dim,
            take(hf, "intermediate_size", int),
            take(hf, "rms_norm_eps", float, 1e-5),
            turning,
            trained if turning.kind == "longrope" else most,
            # published: wider than the longest context, so that no token is ever hidden
            None if window is None or window >= most else window,
            take(hf, "tie_word_embeddings", bool, True),
            {name: Branch.from_hf(sub(hf, key)) for name, key in branches.items() if hf.get(key) is not None},
        )


class BranchedLinear(nn.Module):
    """base_layer(x) + scale * lora_B(lora_A(x)) of the branch that each row has chosen."""

    def __init__(self, in_size: int, out_size: int, branches: Mapping[str, Branch]) -> None:
        super().__init__()
        self.base_layer = Linear(in_size, out_size, bias=False)
        self.lora_A = {name: Linear(in_size, branch.rank, bias=False) for name, branch in branches.items()}
        self.lora_B = {name: Linear(branch.rank, out_size, bias=False) for name, branch in branches.items()}
        self._scales = {name: branch.scale for name, branch in branches.items()}

    def __call__(self, x: mx.array, chosen: Chosen) -> mx.array:
        y = self.base_layer(x)
        for name, rows in chosen:
            correction = self.lora_B[name](self.lora_A[name](x)) * self._scales[name]
            y = y + (correction if rows is None else correction * rows.astype(x.dtype))
        return y


class PhiAttention(nn.Module):
    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self._splits, self._heads = (size, size + kv_size), (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self.rules = AttentionRules(config.head_dim**-0.5, config.window)
        self.qkv_proj = BranchedLinear(config.dim, size + 2 * kv_size, config.branches)
        self.o_proj = BranchedLinear(size, config.dim, config.branches)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any, chosen: Chosen) -> mx.array:
        parts = mx.split(self.qkv_proj(x, chosen), self._splits, axis=-1)
        q, k, v = (split_heads(part, heads) for part, heads in zip(parts, self._heads, strict=True))
        seen = cache.attend(rope(q, *tables), rope(k, *tables), v, plan, self.rules)
        return self.o_proj(merge_heads(seen), chosen)


class PhiMlp(nn.Module):
    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.gate_up_proj = BranchedLinear(config.dim, 2 * config.hidden, config.branches)
        self.down_proj = BranchedLinear(config.hidden, config.dim, config.branches)

    def __call__(self, x: mx.array, chosen: Chosen) -> mx.array:
        gate, up = mx.split(self.gate_up_proj(x, chosen), 2, axis=-1)
        return self.down_proj(swiglu(gate, up), chosen)


class PhiLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = PhiAttention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = PhiMlp(config)

    def __call__(self, x: mx.array, tables: Tables, plan: Attention, cache: Any, chosen: Chosen) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), tables, plan, cache, chosen)
        return x + self.mlp(self.post_attention_layernorm(x), chosen)


class PhiDecoder(nn.Module):
    """Embedding table, layers, last norm and head."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.dim)
        self.layers = [PhiLayer(config) for _ in range(config.num_layers)]
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
        adapters: Sequence[str | None] | None = None,
    ) -> Output:
        named = [frozenset((name or "").split("+")) for name in adapters or [None] * inputs.embeds.shape[0]]
        tables = self._tables(positions, named)
        chosen = self._chosen(named)
        x = inputs.embeds
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x = layer(x, tables, attention, layer_cache, chosen)
        hidden = self.norm(x)
        rows = selected(hidden, select)
        return Output(self.embed_tokens.as_linear(rows) if self.config.tied else self.lm_head(rows), hidden)

    def _tables(self, positions: mx.array, named: Sequence[frozenset[str]]) -> Tables:
        long = [LONG in names for names in named]
        if all(long) or not any(long):
            return self._rope(positions, length=self.config.trained + int(all(long)))
        rows = mx.array(long)[:, None, None]
        short, far = (self._rope(positions, length=self.config.trained + more) for more in (0, 1))
        return mx.where(rows, far[0], short[0]), mx.where(rows, far[1], short[1])

    def _chosen(self, named: Sequence[frozenset[str]]) -> Chosen:
        chosen: list[tuple[str, mx.array | None]] = []
        for name in self.config.branches:
            takes = [name in names for names in named]
            if any(takes):
                chosen.append((name, None if all(takes) else mx.array(takes, mx.float32)[:, None, None]))
        return chosen

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        heads, size, window = self.config.num_kv_heads, self.config.head_dim, self.config.window
        spec = Full(heads, size, size) if window is None else Window(window, heads, size, size)
        return (spec,) * self.config.num_layers
