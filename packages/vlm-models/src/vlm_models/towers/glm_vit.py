"""GLM-4V's vision transformer (arXiv:2507.01006): rotary positions, RMS norms, a strided convolution that joins patches. With
a learned position table that is resampled bicubically (GLM-4V), or with norms on q and k instead (GLM-OCR)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..core.config import check, take
from ..core.weights import Flatten, Rename, Rule
from ..layers.activation import gelu
from ..layers.attention import Tables
from ..layers.linear import Embedding, Linear
from ..layers.mlp import GatedMlp, gated
from ..layers.norm import LayerNorm, RMSNorm
from ..layers.resample import resample_table
from .qwen_vit import PatchEmbed, VisionAttention, merge_order, rotary_2d, rotary_theta


@dataclass(frozen=True)
class GlmVitConfig:
    """side: entries a side of the position table, 0 for none. join_hidden: inner width of the merger."""

    dim: int
    out_dim: int
    depth: int
    num_heads: int
    hidden: int
    join_hidden: int
    act: str
    norm_eps: float
    channels: int
    patch: int
    frames: int
    merge: int
    side: int
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    theta: float = 10000.0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, ocr: bool) -> GlmVitConfig:
        """ocr: GLM-OCR's form; absent keys have the defaults of its class, or of GLM-4V's."""
        dim = take(hf, "hidden_size", int, 1024 if ocr else 1536)
        out_dim = take(hf, "out_hidden_size", int, 1536 if ocr else 4096)
        inner = take(hf, "intermediate_size", int, 4096 if ocr else 13696)
        bias = take(hf, "attention_bias", bool, ocr)
        channels = take(hf, "in_channels", int, 3)
        patch = take(hf, "patch_size", int, 14)
        act = take(hf, "hidden_act", str, "silu")
        gated(act)
        config = cls(
            dim=dim,
            out_dim=out_dim,
            depth=take(hf, "depth", int, 24),
            num_heads=take(hf, "num_heads", int, 16 if ocr else 12),
            hidden=inner if ocr else out_dim,
            join_hidden=out_dim * channels if ocr else inner,
            act=act,
            norm_eps=take(hf, "rms_norm_eps", float, 1e-5),
            channels=channels,
            patch=patch,
            frames=take(hf, "temporal_patch_size", int, 2),
            merge=take(hf, "spatial_merge_size", int, 2),
            side=0 if ocr else take(hf, "image_size", int, 336) // patch,
            qkv_bias=bias,
            out_bias=bias and ocr,
            mlp_bias=bias and ocr,
            qk_norm=ocr,
            theta=rotary_theta(hf),
        )
        check(dim % (4 * config.num_heads) == 0, f"vision dim {dim} does not split into heads")
        return config


class VisionBlock(nn.Module):
    def __init__(self, config: GlmVitConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.dim, config.norm_eps)
        self.attn = VisionAttention(
            config.dim,
            config.num_heads,
            qkv_bias=config.qkv_bias,
            out_bias=config.out_bias,
            norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.norm2 = RMSNorm(config.dim, config.norm_eps)
        self.mlp = GatedMlp(config.dim, config.hidden, config.act, bias=config.mlp_bias)

    def __call__(self, x: mx.array, tables: Tables, segments: tuple[int, ...]) -> mx.array:
        x = x + self.attn(self.norm1(x), tables, segments)
        return x + self.mlp(self.norm2(x))


class Merger(GatedMlp):
    """A linear map, norm and gelu before a gated perceptron; nothing is joined here."""

    def __init__(self, config: GlmVitConfig) -> None:
        super().__init__(config.out_dim, config.join_hidden, config.act)
        self.proj = Linear(config.out_dim, config.out_dim, bias=False)
        self.post_projection_norm = LayerNorm(config.out_dim, 1e-5)

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(gelu(self.post_projection_norm(self.proj(x))))


class GlmVit(nn.Module):
    def __init__(self, config: GlmVitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.channels * config.frames * config.patch**2, config.dim, bias=True)
        if config.side:
            self.post_conv_layernorm = RMSNorm(config.dim, config.norm_eps)
            self.position_embedding = Embedding(config.side**2, config.dim)
        self.blocks = [VisionBlock(config) for _ in range(config.depth)]
        self.post_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.downsample = Linear(config.merge**2 * config.dim, config.out_dim)
        self.merger = Merger(config)

    def __call__(self, patches: mx.array, grid: tuple[int, ...]) -> mx.array:
        """patches: [t * h * w, channels * frames * patch^2] -> [t * h * w / merge^2, out_dim]."""
        config, (t, h, w) = self.config, grid
        cells = merge_order(grid, config.merge)
        tables = rotary_2d(np.tile(cells, (t, 1)), config.dim // config.num_heads, config.theta)
        x = self.patch_embed(patches)
        if config.side:
            x = self.post_conv_layernorm(x).reshape(t, h * w, config.dim) + self._positions(cells, h, w).astype(x.dtype)
        x = x.reshape(1, -1, config.dim)
        for block in self.blocks:
            x = block(x, tables, (h * w,) * t)
        # patches stand in merge order: each row joins one square of them, as the convolution does
        joined = self.post_layernorm(x).reshape(-1, config.merge**2 * config.dim)
        return self.merger(self.downsample(joined))

    def _positions(self, cells: np.ndarray, height: int, width: int) -> mx.array:
        """float32 [h * w, dim] in merge order."""
        every = mx.arange(self.config.side**2)  # through the layer, which may be packed
        raster = resample_table(self.position_embedding(every), height, width, "cubic")
        return raster.reshape(height * width, -1)[mx.array(cells[:, 0] * width + cells[:, 1])]


def tower_rules() -> tuple[Rule, ...]:
    """model.visual.* (published), vision_tower.* (MLX)."""
    return (
        Rename("model.visual.*", "visual.*"),
        Rename("vision_tower.*", "visual.*"),
        Rename("visual.embeddings.position_embedding.*", "visual.position_embedding.*"),
        Flatten("visual.patch_embed.proj.weight"),
        Flatten("visual.downsample.weight", channels_last=True),
    )
