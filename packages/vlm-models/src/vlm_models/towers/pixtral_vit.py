"""Pixtral's vision transformer (arXiv:2410.07073): pictures of any size, two-axis rotary positions, gated MLP, RMS norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_kernels import rope

from ..core.config import check, expect, take
from ..layers.attention import Tables, encoder_attention, merge_heads, split_heads
from ..layers.linear import Linear
from ..layers.mlp import GatedMlp, gated
from ..layers.norm import RMSNorm
from ..layers.patches import cut_patches

NORM_EPS = 1e-5


@dataclass(frozen=True)
class PixtralVitConfig:
    """image: longest side in pixels; patch: pixels a side."""

    dim: int
    depth: int
    num_heads: int
    hidden: int
    act: str
    channels: int
    image: int
    patch: int
    theta: float
    extra_tokens: int = 0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> PixtralVitConfig:
        """From a vision_config; absent keys have the defaults of PixtralVisionConfig. Raises ConfigError."""
        given = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
        expect(given, "rope_type", "axial", "default")
        expect(given, "type", "axial", "default")
        config = cls(
            take(hf, "hidden_size", int, 1024),
            take(hf, "num_hidden_layers", int, 24),
            take(hf, "num_attention_heads", int, 16),
            take(hf, "intermediate_size", int, 4096),
            take(hf, "hidden_act", str, "gelu"),
            take(hf, "num_channels", int, 3),
            take(hf, "image_size", int, 1024),
            take(hf, "patch_size", int, 16),
            take(given, "rope_theta", float, take(hf, "rope_theta", float, 10000.0)),
        )
        gated(config.act)
        check(
            config.dim % config.num_heads == 0 and config.dim // config.num_heads % 4 == 0,
            f"vision dim {config.dim} does not split into heads whose size four divides",
        )
        return config


def axial_tables(rows: int, columns: int, head_dim: int, theta: float) -> Tables:
    """cos, sin [1, rows * columns, head_dim / 2]: even frequencies turn with the row, odd ones with the column."""
    base = (1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)).astype(np.float32)
    y, x = np.divmod(np.arange(rows * columns, dtype=np.int64), columns)
    angles = np.concatenate([np.outer(y, base[0::2]), np.outer(x, base[1::2])], axis=-1).astype(np.float32)
    flat = mx.array(angles[None])
    return mx.cos(flat), mx.sin(flat)


class PixtralAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(dim, dim, bias=False)
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim, bias=False)
        self.o_proj = Linear(dim, dim, bias=False)

    def __call__(self, x: mx.array, tables: Tables) -> mx.array:
        q, k, v = (split_heads(project(x), self.num_heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        scale = (x.shape[-1] // self.num_heads) ** -0.5
        return self.o_proj(merge_heads(encoder_attention(rope(q, *tables), rope(k, *tables), v, scale=scale)))


class PixtralLayer(nn.Module):
    def __init__(self, config: PixtralVitConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, NORM_EPS)
        self.attention = PixtralAttention(config.dim, config.num_heads)
        self.ffn_norm = RMSNorm(config.dim, NORM_EPS)
        self.feed_forward = GatedMlp(config.dim, config.hidden, config.act)

    def __call__(self, x: mx.array, tables: Tables) -> mx.array:
        x = x + self.attention(self.attention_norm(x), tables)
        return x + self.feed_forward(self.ffn_norm(x))


class PixtralLayers(nn.Module):
    def __init__(self, config: PixtralVitConfig) -> None:
        super().__init__()
        self.layers = [PixtralLayer(config) for _ in range(config.depth)]


class PixtralVit(nn.Module):
    """Names are those of PixtralVisionModel."""

    def __init__(self, config: PixtralVitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_conv = Linear(config.channels * config.patch**2, config.dim, bias=False)
        self.ln_pre = RMSNorm(config.dim, NORM_EPS)
        self.transformer = PixtralLayers(config)

    def __call__(self, pixels: mx.array) -> list[mx.array]:
        """pixels: [n, C, H, W], sides multiples of the patch -> all states [n, patches, dim]: embeddings, then each layer's."""
        config = self.config
        patches = cut_patches(pixels, config.patch).astype(self.patch_conv.weight.dtype)
        rows, columns = pixels.shape[2] // config.patch, pixels.shape[3] // config.patch
        tables = axial_tables(rows, columns, config.dim // config.num_heads, config.theta)
        states = [self.ln_pre(self.patch_conv(patches))]
        for layer in self.transformer.layers:
            states.append(layer(states[-1], tables))
        return states
