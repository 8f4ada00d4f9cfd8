"""Qwen2.5-VL's vision transformer (arXiv:2502.13923): RMS norms, gated MLP, and blocks that attend within windows of the
picture, but for a few that see a whole frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..core.config import check, take
from ..layers.attention import Tables
from ..layers.mlp import GatedMlp, gated
from ..layers.norm import RMSNorm
from .qwen_vit import Merger, PatchEmbed, VisionAttention, merge_order, rotary_2d, rotary_theta


@dataclass(frozen=True)
class Qwen25VitConfig:
    """window: side of a window in pixels. full: blocks that see whole frames. rate: position steps a second of video."""

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
    window: int
    full: tuple[int, ...]
    rate: float
    theta: float = 10000.0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Qwen25VitConfig:
        act = take(hf, "hidden_act", str, "silu")
        gated(act)
        config = cls(
            dim=take(hf, "hidden_size", int, 3584),
            out_dim=take(hf, "out_hidden_size", int, 3584),
            depth=take(hf, "depth", int, 32),
            num_heads=take(hf, "num_heads", int, 16),
            hidden=take(hf, "intermediate_size", int, 3420),
            act=act,
            channels=take(hf, "in_channels", int, take(hf, "in_chans", int, 3)),
            patch=take(hf, "patch_size", int, 14),
            frames=take(hf, "temporal_patch_size", int, 2),
            merge=take(hf, "spatial_merge_size", int, 2),
            window=take(hf, "window_size", int, 112),
            full=tuple(take(hf, "fullatt_block_indexes", (list, tuple), (7, 15, 23, 31))),
            rate=take(hf, "tokens_per_second", (int, float), 4),
            theta=rotary_theta(hf),
        )
        check(config.dim % (4 * config.num_heads) == 0, f"vision dim {config.dim} does not split into heads")
        check(config.window >= config.patch * config.merge, f"window_size {config.window} is less than a merged patch")
        return config


def window_order(height: int, width: int, side: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Order in which the cells of one frame [height, width] stand window by window, and the cells in each window.

    Windows are `side` cells a side, cut off at the right and bottom edges. Large ones come first: equal ones run together.
    """
    rows, columns = np.divmod(np.arange(height * width), width)
    window = (rows // side) * -(-width // side) + columns // side
    counts = np.bincount(window)
    return np.lexsort((window, -counts[window])), tuple(-np.sort(-counts))


class VisionBlock(nn.Module):
    def __init__(self, config: Qwen25VitConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.dim, 1e-6)
        self.attn = VisionAttention(config.dim, config.num_heads)
        self.norm2 = RMSNorm(config.dim, 1e-6)
        self.mlp = GatedMlp(config.dim, config.hidden, config.act, bias=True)

    def __call__(self, x: mx.array, tables: Tables, segments: tuple[int, ...]) -> mx.array:
        x = x + self.attn(self.norm1(x), tables, segments)
        return x + self.mlp(self.norm2(x))


class Qwen25Vit(nn.Module):
    def __init__(self, config: Qwen25VitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.channels * config.frames * config.patch**2, config.dim)
        self.blocks = [VisionBlock(config) for _ in range(config.depth)]
        self.merger = Merger(config.dim, config.out_dim, config.merge, RMSNorm(config.dim, 1e-6))

    def __call__(self, patches: mx.array, grid: tuple[int, ...]) -> mx.array:
        """patches: [t * h * w, channels * frames * patch^2] -> [t * h * w / merge^2, out_dim]."""
        config, (t, h, w) = self.config, grid
        unit = config.merge**2
        order, counts = window_order(
            h // config.merge, w // config.merge, config.window // config.merge // config.patch
        )
        cells = merge_order(grid, config.merge).reshape(-1, unit, 2)[order].reshape(-1, 2)
        tables = rotary_2d(np.tile(cells, (t, 1)), config.dim // config.num_heads, config.theta)
        whole, windows = (h * w,) * t, tuple(count * unit for count in counts) * t
        x = self.patch_embed(patches).reshape(t, -1, unit, config.dim)[:, mx.array(order)].reshape(1, -1, config.dim)
        for index, block in enumerate(self.blocks):
            x = block(x, tables, whole if index in config.full else windows)
        back = mx.array(np.argsort(order))
        return self.merger(x).reshape(t, -1, config.out_dim)[:, back].reshape(-1, config.out_dim)
