"""Qwen2-VL's vision transformer: patches of any grid, two-axis rotary positions, frames that do not see each other, and a
merger that joins merge x merge patches into one token (arXiv:2409.12191)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_kernels import rope

from ..core.config import check, expect, take
from ..layers.activation import activation, gelu
from ..layers.attention import Tables, encoder_attention, merge_heads
from ..layers.linear import Linear
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm, RMSNorm


@dataclass(frozen=True)
class QwenVitConfig:
    dim: int
    out_dim: int
    depth: int
    num_heads: int
    hidden: int
    act: str
    channels: int
    patch: int
    frames: int
    merge: int
    theta: float = 10000.0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> QwenVitConfig:
        dim = take(hf, "embed_dim", int, 1280)
        act = take(hf, "hidden_act", str, "quick_gelu")
        activation(act)
        config = cls(
            dim=dim,
            out_dim=take(hf, "hidden_size", int, 3584),
            depth=take(hf, "depth", int, 32),
            num_heads=take(hf, "num_heads", int, 16),
            hidden=int(dim * take(hf, "mlp_ratio", (int, float), 4)),
            act=act,
            channels=take(hf, "in_channels", int, take(hf, "in_chans", int, 3)),
            patch=take(hf, "patch_size", int, 14),
            frames=take(hf, "temporal_patch_size", int, 2),
            merge=take(hf, "spatial_merge_size", int, 2),
            theta=rotary_theta(hf),
        )
        check(
            dim % config.num_heads == 0 and dim // config.num_heads % 4 == 0,
            f"vision dim {dim} does not split into heads",
        )
        return config


def merge_order(grid: tuple[int, ...], merge: int) -> np.ndarray:
    """int [h * w, 2]: row and column of each patch of one frame, in the order of patches (merge x merge blocks)."""
    _, h, w = grid
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    cells = np.stack([rows, columns], axis=-1).reshape(h // merge, merge, w // merge, merge, 2)
    return cells.transpose(0, 2, 1, 3, 4).reshape(-1, 2)


def rotary_theta(hf: Mapping[str, Any]) -> float:
    """Base of the rotary frequencies of a vision_config. Raises ConfigError for kinds of rotary positions it does not have."""
    given = hf.get("rope_parameters") or {}
    expect(given, "rope_type", "axial", "default")
    return take(given, "rope_theta", float, 10000.0)


def rotary_2d(cells: np.ndarray, head_dim: int, theta: float = 10000.0) -> Tables:
    """cos, sin [1, n, head_dim / 2]: the first half of the frequencies turns with the row, the second with the column."""
    base = (1.0 / theta ** (np.arange(0, head_dim // 2, 2, dtype=np.float64) / (head_dim // 2))).astype(np.float32)
    angles = cells.astype(np.float32)[:, :, None] * base
    flat = mx.array(angles.reshape(1, len(cells), -1))
    return mx.cos(flat), mx.sin(flat)


class VisionAttention(nn.Module):
    """Joint qkv projection, rotary positions, attention within segments; RMS norms on each head's q and k where `norm_eps` is
    set."""

    def __init__(
        self, dim: int, num_heads: int, *, qkv_bias: bool = True, out_bias: bool = True, norm_eps: float | None = None
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim, bias=out_bias)
        if norm_eps is not None:
            self.q_norm = RMSNorm(dim // num_heads, norm_eps)
            self.k_norm = RMSNorm(dim // num_heads, norm_eps)

    def __call__(self, x: mx.array, tables: Tables, segments: tuple[int, ...]) -> mx.array:
        """x: [1, n, dim]."""
        n, dim = x.shape[1:]
        q, k, v = self.qkv(x).reshape(1, n, 3, self.num_heads, -1).transpose(2, 0, 3, 1, 4)
        if "q_norm" in self:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rope(q, *tables), rope(k, *tables)
        scale = (dim // self.num_heads) ** -0.5
        return self.proj(merge_heads(encoder_attention(q, k, v, scale=scale, segments=segments)))


class VisionBlock(nn.Module):
    def __init__(self, config: QwenVitConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.dim, 1e-6)
        self.attn = VisionAttention(config.dim, config.num_heads)
        self.norm2 = LayerNorm(config.dim, 1e-6)
        self.mlp = Mlp(config.dim, config.hidden, config.act)

    def __call__(self, x: mx.array, tables: Tables, segments: tuple[int, ...]) -> mx.array:
        x = x + self.attn(self.norm1(x), tables, segments)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A convolution over non-overlapping patches, as a matrix on flat patches."""

    def __init__(self, in_size: int, dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.proj = Linear(in_size, dim, bias=bias)

    def __call__(self, patches: mx.array) -> mx.array:
        return self.proj(patches.astype(self.proj.weight.dtype))


class Merger(nn.Module):
    """Norm, join merge x merge neighbours, two-layer perceptron."""

    def __init__(self, dim: int, out_dim: int, merge: int, norm: nn.Module) -> None:
        super().__init__()
        self.ln_q = norm
        # the checkpoint counts the activation between the two as member 1
        self.mlp: list[Any] = [Linear(dim * merge**2, dim * merge**2), {}, Linear(dim * merge**2, out_dim)]

    def __call__(self, x: mx.array) -> mx.array:
        """[1, n, dim] -> [n / merge^2, out_dim]."""
        joined = self.ln_q(x).reshape(-1, self.mlp[0].weight.shape[0])
        return self.mlp[2](gelu(self.mlp[0](joined)))


class QwenVit(nn.Module):
    def __init__(self, config: QwenVitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.channels * config.frames * config.patch**2, config.dim)
        self.blocks = [VisionBlock(config) for _ in range(config.depth)]
        self.merger = Merger(config.dim, config.out_dim, config.merge, LayerNorm(config.dim, 1e-6))

    def __call__(self, patches: mx.array, grid: tuple[int, ...]) -> mx.array:
        """patches: [t * h * w, channels * frames * patch^2] -> [t * h * w / merge^2, out_dim]."""
        config, t = self.config, grid[0]
        cells = np.tile(merge_order(grid, config.merge), (t, 1))
        tables = rotary_2d(cells, config.dim // config.num_heads, config.theta)
        segments = (len(cells) // t,) * t
        x = self.patch_embed(patches)[None]
        for block in self.blocks:
            x = block(x, tables, segments)
        return self.merger(x)
