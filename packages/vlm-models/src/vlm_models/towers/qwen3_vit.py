"""Qwen3-VL's vision transformer (arXiv:2511.21631): Qwen2-VL's with a learned position table that is resampled to each grid,
and mergers that also give out the states of inner blocks (deepstack)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..core.config import check, take
from ..core.weights import Flatten, Rename, Rule
from ..layers.activation import activation, gelu
from ..layers.attention import Tables
from ..layers.linear import Embedding, Linear
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm
from ..layers.resample import resample_table
from .qwen_vit import PatchEmbed, VisionAttention, merge_order, rotary_2d, rotary_theta


@dataclass(frozen=True)
class Qwen3VitConfig:
    """num_positions: entries of the square position table. deepstack: blocks whose states are given out too."""

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
    num_positions: int
    deepstack: tuple[int, ...]
    theta: float = 10000.0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, deepstack: tuple[int, ...] = (8, 16, 24)) -> Qwen3VitConfig:
        """deepstack: what the architecture has where the file says nothing."""
        act = take(hf, "hidden_act", str, "gelu_pytorch_tanh")
        activation(act)
        config = cls(
            dim=take(hf, "hidden_size", int, 1152),
            out_dim=take(hf, "out_hidden_size", int, 3584),
            depth=take(hf, "depth", int, 27),
            num_heads=take(hf, "num_heads", int, 16),
            hidden=take(hf, "intermediate_size", int, 4304),
            act=act,
            channels=take(hf, "in_channels", int, 3),
            patch=take(hf, "patch_size", int, 16),
            frames=take(hf, "temporal_patch_size", int, 2),
            merge=take(hf, "spatial_merge_size", int, 2),
            num_positions=take(hf, "num_position_embeddings", int, 2304),
            deepstack=tuple(take(hf, "deepstack_visual_indexes", (list, tuple), deepstack)),
            theta=rotary_theta(hf),
        )
        check(config.dim % (4 * config.num_heads) == 0, f"vision dim {config.dim} does not split into heads")
        check(int(config.num_positions**0.5) ** 2 == config.num_positions, "num_position_embeddings must be a square")
        check(
            all(0 <= i < config.depth for i in config.deepstack), "deepstack_visual_indexes names a block beyond depth"
        )
        return config


class VisionBlock(nn.Module):
    def __init__(self, config: Qwen3VitConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.dim, 1e-6)
        self.attn = VisionAttention(config.dim, config.num_heads)
        self.norm2 = LayerNorm(config.dim, 1e-6)
        self.mlp = Mlp(config.dim, config.hidden, config.act)

    def __call__(self, x: mx.array, tables: Tables, segments: tuple[int, ...]) -> mx.array:
        x = x + self.attn(self.norm1(x), tables, segments)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Joins merge x merge neighbours; the norm stands before joining them, or behind."""

    def __init__(self, dim: int, out_dim: int, merge: int, *, norm_joined: bool) -> None:
        super().__init__()
        joined = dim * merge**2
        self.norm = LayerNorm(joined if norm_joined else dim, 1e-6)
        self.fc1 = Linear(joined, joined)
        self.fc2 = Linear(joined, out_dim)

    def __call__(self, x: mx.array) -> mx.array:
        """[1, n, dim] -> [n / merge^2, out_dim]."""
        x = self.norm(x.reshape(-1, self.norm.weight.shape[0])).reshape(-1, self.fc1.weight.shape[0])
        return self.fc2(gelu(self.fc1(x)))


class Qwen3Vit(nn.Module):
    def __init__(self, config: Qwen3VitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.channels * config.frames * config.patch**2, config.dim, bias=True)
        self.pos_embed = Embedding(config.num_positions, config.dim)
        self.blocks = [VisionBlock(config) for _ in range(config.depth)]
        self.merger = Merger(config.dim, config.out_dim, config.merge, norm_joined=False)
        self.deepstack_merger_list = [
            Merger(config.dim, config.out_dim, config.merge, norm_joined=True) for _ in config.deepstack
        ]

    def __call__(self, patches: mx.array, grid: tuple[int, ...]) -> tuple[mx.array, list[mx.array]]:
        """patches: [t * h * w, channels * frames * patch^2] -> tokens [t * h * w / merge^2, out_dim], and deepstack levels
        of that shape."""
        config, (t, h, w) = self.config, grid
        cells = merge_order(grid, config.merge)
        tables = rotary_2d(np.tile(cells, (t, 1)), config.dim // config.num_heads, config.theta)
        x = self.patch_embed(patches)
        x = (x.reshape(t, h * w, config.dim) + self._positions(cells, h, w).astype(x.dtype)).reshape(1, -1, config.dim)
        levels: list[mx.array] = []
        for index, block in enumerate(self.blocks):
            x = block(x, tables, (h * w,) * t)
            if index in config.deepstack:
                levels.append(self.deepstack_merger_list[config.deepstack.index(index)](x))
        return self.merger(x), levels

    def _positions(self, cells: np.ndarray, height: int, width: int) -> mx.array:
        """float32 [h * w, dim] in merge order."""
        every = mx.arange(self.config.num_positions)  # through the layer, which may be packed
        raster = resample_table(self.pos_embed(every), height, width, "linear", corners=True)
        return raster.reshape(height * width, -1)[mx.array(cells[:, 0] * width + cells[:, 1])]


def tower_rules() -> tuple[Rule, ...]:
    """model.visual.* (published), vision_tower.* (MLX)."""
    return (
        Rename("model.visual.*", "visual.*"),
        Rename("vision_tower.*", "visual.*"),
        Rename("visual.*.linear_fc#.*", "visual.*.fc#.*"),
        Flatten("visual.patch_embed.proj.weight"),
    )
