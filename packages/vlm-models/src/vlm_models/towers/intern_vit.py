"""InternVL's vision transformer (arXiv:2312.14238): class token, learned positions, a learned scale on each branch."""

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
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm, RMSNorm
from ..layers.patches import cut_patches
from ..layers.resample import resample_table


@dataclass(frozen=True)
class InternVitConfig:
    """image, patch: pixels a side. rms: RMS norms instead of layer norms. qk_norm: RMS norms over the whole q and k.
    has_norm: a layer norm behind the last layer."""

    dim: int
    depth: int
    num_heads: int
    hidden: int
    act: str
    norm_eps: float
    channels: int
    image: int
    patch: int
    bias: bool
    rms: bool
    qk_norm: bool
    has_norm: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> InternVitConfig:
        expect(hf, "use_absolute_position_embeddings", True)
        config = cls(
            dim=take(hf, "hidden_size", int, 1024),
            depth=take(hf, "num_hidden_layers", int, 24),
            num_heads=take(hf, "num_attention_heads", int, 16),
            hidden=take(hf, "intermediate_size", int, 4096),
            act=take(hf, "hidden_act", str, "gelu"),
            norm_eps=take(hf, "layer_norm_eps", float, 1e-6),
            channels=take(hf, "num_channels", int, 3),
            image=_side(hf, "image_size", 448),
            patch=_side(hf, "patch_size", 14),
            bias=take(hf, "attention_bias", bool, False),
            rms=expect(hf, "norm_type", "layer_norm", "rms_norm") == "rms_norm",
            qk_norm=take(hf, "use_qk_norm", bool, False),
            has_norm=not take(hf, "use_mean_pooling", bool, True),
        )
        activation(config.act)
        check(config.dim % config.num_heads == 0, f"vision dim {config.dim} does not split into heads")
        return config

    @property
    def side(self) -> int:
        """Patches a side."""
        return self.image // self.patch


def _side(hf: Mapping[str, Any], key: str, default: int) -> int:
    value: int | list[int] = take(hf, key, (int, list, tuple), default)
    if isinstance(value, int):
        return value
    check(len(value) == 2 and value[0] == value[1], f"{key} {list(value)} must be square")
    return int(value[0])


class InternAttention(nn.Module):
    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = Linear(config.dim, config.dim, bias=config.bias)
        self.k_proj = Linear(config.dim, config.dim, bias=config.bias)
        self.v_proj = Linear(config.dim, config.dim, bias=config.bias)
        self.projection_layer = Linear(config.dim, config.dim)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.dim, 1e-6)
            self.k_norm = RMSNorm(config.dim, 1e-6)

    def __call__(self, x: mx.array) -> mx.array:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if "q_norm" in self:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))
        return self.projection_layer(merge_heads(encoder_attention(q, k, v, scale=q.shape[-1] ** -0.5)))


class InternLayer(nn.Module):
    """x + lambda_1 * attention(norm(x)), then x + lambda_2 * mlp(norm(x))."""

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        norm = RMSNorm if config.rms else LayerNorm
        self.layernorm_before = norm(config.dim, config.norm_eps)
        self.attention = InternAttention(config)
        self.layernorm_after = norm(config.dim, config.norm_eps)
        self.mlp = Mlp(config.dim, config.hidden, config.act)
        self.lambda_1 = mx.ones((config.dim,))
        self.lambda_2 = mx.ones((config.dim,))

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.lambda_1 * self.attention(self.layernorm_before(x))
        return x + self.lambda_2 * self.mlp(self.layernorm_after(x))


class InternEmbeddings(nn.Module):
    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = mx.zeros((1, 1, config.dim))
        self.position_embeddings = mx.zeros((1, config.side**2 + 1, config.dim))
        self.projection = Linear(config.channels * config.patch**2, config.dim)

    def __call__(self, pixels: mx.array) -> mx.array:
        config, table = self.config, self.position_embeddings
        patches = self.projection(cut_patches(pixels, config.patch).astype(table.dtype))
        grid = (pixels.shape[2] // config.patch, pixels.shape[3] // config.patch)
        if grid != (config.side, config.side):
            resampled = resample_table(table[0, 1:], *grid, "cubic").reshape(1, -1, config.dim)
            table = mx.concatenate([table[:, :1], resampled.astype(table.dtype)], axis=1)
        first = mx.broadcast_to(self.cls_token, (len(patches), 1, config.dim))
        return mx.concatenate([first, patches], axis=1) + table


class InternVit(nn.Module):
    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.embeddings = InternEmbeddings(config)
        self.layers = [InternLayer(config) for _ in range(config.depth)]
        if config.has_norm:
            self.layernorm = LayerNorm(config.dim, config.norm_eps)

    def __call__(self, pixels: mx.array) -> list[mx.array]:
        """pixels: [n, C, H, W] -> all states [n, 1 + patches, dim]: the embeddings, then each layer's output; the last one
        through the final norm, where there is one."""
        states = [self.embeddings(pixels)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        if "layernorm" in self:
            states[-1] = self.layernorm(states[-1])
        return states
