"""Molmo 2's vision side: a SigLIP-like transformer over square views, and attention that pools the patches of a cell to a token."""

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
from ..layers.mlp import GatedMlp, Mlp, gated
from ..layers.norm import LayerNorm


@dataclass(frozen=True)
class CrossShape:
    """Sizes of an attention whose keys may come from elsewhere. context: size of what it reads."""

    context: int
    dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], context: int | None = None) -> CrossShape:
        dim, heads = take(hf, "hidden_size", int, 1152), take(hf, "num_attention_heads", int, 16)
        kv_heads, size = take(hf, "num_key_value_heads", int, heads), take(hf, "head_dim", int, 72)
        check(heads % kv_heads == 0, f"{heads} vision heads cannot share {kv_heads} key heads")
        return cls(context or dim, dim, heads, kv_heads, size, take(hf, "attention_bias", bool, True))


class CrossAttention(nn.Module):
    def __init__(self, shape: CrossShape) -> None:
        super().__init__()
        self.shape = shape
        kv_size = shape.num_kv_heads * shape.head_dim
        self.q_proj = Linear(shape.context, shape.num_heads * shape.head_dim, bias=shape.bias)
        self.k_proj = Linear(shape.context, kv_size, bias=shape.bias)
        self.v_proj = Linear(shape.context, kv_size, bias=shape.bias)
        self.o_proj = Linear(shape.num_heads * shape.head_dim, shape.dim, bias=shape.bias)

    def __call__(self, x: mx.array, context: mx.array, mask: mx.array | None = None) -> mx.array:
        """x: [n, L, context size]. context: [n, S, context size]. mask: bool, broadcast to [n, heads, L, S]."""
        shape = self.shape
        q = split_heads(self.q_proj(x), shape.num_heads)
        k, v = (split_heads(project(context), shape.num_kv_heads) for project in (self.k_proj, self.v_proj))
        return self.o_proj(merge_heads(encoder_attention(q, k, v, scale=shape.head_dim**-0.5, mask=mask)))


@dataclass(frozen=True)
class MolmoVitConfig:
    """depth: layers that are read. states: of which layers' outputs a patch's features are joined, in this order. image, patch:
    pixels a side."""

    attention: CrossShape
    hidden: int
    act: str
    norm_eps: float
    depth: int
    states: tuple[int, ...]
    image: int
    patch: int
    channels: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], layers: list[int]) -> MolmoVitConfig:
        """From a vit_config as published or a vision_config of transformers; `layers` count from the end where negative, whatever
        layers the checkpoint has weights for. Raises ConfigError."""
        size = hf.get("image_default_input_size") or hf.get("image_size") or [378, 378]
        side, patch = int(size[0]), int(hf.get("image_patch_size") or hf.get("patch_size") or 14)
        check(size[0] == size[1] and side % patch == 0, f"views of {size} are no squares of whole patches of {patch}")
        count = hf.get("image_num_pos") or hf.get("num_position_embeddings") or (side // patch) ** 2
        check(count == (side // patch) ** 2, f"{count} positions do not fit {side // patch} patches a side")
        depth = take(hf, "num_hidden_layers", int, 25)
        check(bool(layers) and all(-depth <= at < depth for at in layers), f"{layers} are no layers of {depth}")
        states = tuple(at % depth for at in layers)
        act = take(hf, "hidden_act", str, "gelu_pytorch_tanh")
        activation(act)
        return cls(
            CrossShape.from_hf(hf),
            take(hf, "intermediate_size", int, 4304),
            act,
            take(hf, "layer_norm_eps", float, 1e-6),
            max(states) + 1,
            states,
            side,
            patch,
            take(hf, "num_channels", int, 3),
        )


class MolmoVitLayer(nn.Module):
    def __init__(self, config: MolmoVitConfig) -> None:
        super().__init__()
        dim = config.attention.dim
        self.layer_norm1, self.layer_norm2 = LayerNorm(dim, config.norm_eps), LayerNorm(dim, config.norm_eps)
        self.self_attn = CrossAttention(config.attention)
        self.mlp = Mlp(dim, config.hidden, config.act)

    def __call__(self, x: mx.array) -> mx.array:
        normed = self.layer_norm1(x)
        x = x + self.self_attn(normed, normed)
        return x + self.mlp(self.layer_norm2(x))


class MolmoVit(nn.Module):
    def __init__(self, config: MolmoVitConfig) -> None:
        super().__init__()
        self.states = config.states
        dim = config.attention.dim
        self.patch_embedding = Linear(config.patch**2 * config.channels, dim)
        self.positional_embedding = mx.zeros(((config.image // config.patch) ** 2, dim))
        self.layers = [MolmoVitLayer(config) for _ in range(config.depth)]

    def __call__(self, patches: mx.array) -> mx.array:
        """[n, patches, patch^2 * channels], channels last -> [n, patches, states * dim]."""
        x = self.patch_embedding(patches.astype(self.patch_embedding.weight.dtype)) + self.positional_embedding
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return mx.concatenate([outputs[state] for state in self.states], axis=-1)


@dataclass(frozen=True)
class PoolingConfig:
    attention: CrossShape
    hidden: int
    act: str
    out: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], num_states: int) -> PoolingConfig:
        """From an adapter_config. Raises ConfigError."""
        expect(hf, "pooling_attention_mask", True)
        expect(hf, "mlp_bias", False)
        dim, act = take(hf, "hidden_size", int, 1152), take(hf, "hidden_act", str, "silu")
        gated(act)
        return cls(
            CrossShape.from_hf(hf, dim * num_states),
            take(hf, "intermediate_size", int, 18944),
            act,
            take(hf, "text_hidden_size", int, 3584),
        )


class Pooling(nn.Module):
    """The mean of a cell's patches asks, they answer; then a gated projection."""

    def __init__(self, config: PoolingConfig) -> None:
        super().__init__()
        self.image_pooling_2d = CrossAttention(config.attention)
        self.image_projector = GatedMlp(config.attention.dim, config.hidden, config.act)
        self.image_projector.down_proj = Linear(config.hidden, config.out, bias=False)

    def __call__(self, patches: mx.array, cells: mx.array) -> mx.array:
        """patches: [n, patches, size]. cells: int32 [tokens, most], numbers of patches through all n views, -1 for none; a cell
        holds one at least. Returns [tokens, out]."""
        held = cells >= 0
        found = patches.reshape(-1, patches.shape[-1])[mx.maximum(cells, 0)] * held[..., None].astype(patches.dtype)
        mean = found.sum(axis=1, keepdims=True) / held.sum(axis=1)[:, None, None].astype(patches.dtype)
        return self.image_projector(self.image_pooling_2d(mean, found, held[:, None, None]))[:, 0]
