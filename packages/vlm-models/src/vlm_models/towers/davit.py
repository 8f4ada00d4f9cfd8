"""DaViT (arXiv:2204.03645): stages of blocks that attend within windows of positions, then among groups of channels.

All maps are channel-last: [n, H, W, dim].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.config import check, take
from ..layers.activation import activation
from ..layers.attention import encoder_attention, merge_heads
from ..layers.convolution import Convolution, convolved_size
from ..layers.linear import Linear
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm


@dataclass(frozen=True)
class DavitStage:
    """One stage's sizes. norm_first: the map is normalised before its convolution, not after."""

    in_dim: int
    dim: int
    kernel: int
    stride: int
    padding: int
    norm_first: bool
    num_heads: int
    num_groups: int
    depth: int
    hidden: int


@dataclass(frozen=True)
class DavitConfig:
    stages: tuple[DavitStage, ...]
    window: int
    qkv_bias: bool
    act: str

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> DavitConfig:
        """From Florence-2's vision_config, transformers' or the original repository's spelling. Raises ConfigError."""

        def row(key: str, default: tuple[int, ...]) -> list[Any]:
            return take(hf, key, list, list(default))

        dims = take(hf, "dim_embed", list, row("embed_dim", (128, 256, 512, 1024)))
        ratio = take(hf, "mlp_ratio", float, 4.0)
        columns: list[list[Any]] = [
            [take(hf, "in_channels", int, 3), *dims[:-1]],
            dims,
            row("patch_size", (7, 3, 3, 3)),
            row("patch_stride", (4, 2, 2, 2)),
            row("patch_padding", (3, 1, 1, 1)),
            row("patch_prenorm", (False, True, True, True)),
            row("num_heads", (4, 8, 16, 32)),
            row("num_groups", (4, 8, 16, 32)),
            row("depths", (1, 1, 9, 1)),
            [int(dim * ratio) for dim in dims],
        ]
        check(len({len(column) for column in columns}) == 1, "the stages of the vision_config differ in number")
        stages = tuple(DavitStage(*values) for values in zip(*columns, strict=True))
        for stage in stages:
            check(
                stage.dim % stage.num_heads == 0 and stage.dim % stage.num_groups == 0,
                f"a stage of {stage.dim} channels does not split into {stage.num_heads} heads and {stage.num_groups} groups",
            )
        act = take(hf, "activation_function", str, "gelu")
        activation(act)
        return cls(stages, take(hf, "window_size", int, 12), take(hf, "qkv_bias", bool, True), act)

    def map_side(self, side: int) -> int:
        """Cells a side of the last map of a picture of `side` pixels."""
        for stage in self.stages:
            side = convolved_size(side, stage.kernel, stage.stride, stage.padding)
        return side


class WindowAttention(nn.Module):
    """Attention within windows; a map that windows do not divide is filled up with zeros, which are seen."""

    def __init__(self, dim: int, num_heads: int, window: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.qkv = Linear(dim, 3 * dim, bias=bias)
        self.proj = Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        n, height, width, dim = x.shape
        size = self.window
        x = mx.pad(x, [(0, 0), (0, -height % size), (0, -width % size), (0, 0)])
        rows, columns = x.shape[1] // size, x.shape[2] // size
        windows = x.reshape(n, rows, size, columns, size, dim).swapaxes(2, 3).reshape(-1, size * size, dim)
        q, k, v = self.qkv(windows).reshape(*windows.shape[:2], 3, self.num_heads, -1).transpose(2, 0, 3, 1, 4)
        y = self.proj(merge_heads(encoder_attention(q, k, v, scale=(dim // self.num_heads) ** -0.5)))
        y = y.reshape(n, rows, columns, size, size, dim).swapaxes(2, 3).reshape(n, rows * size, columns * size, dim)
        return y[:, :height, :width]


class ChannelAttention(nn.Module):
    """Channels of a group attend to each other; their features are their values at all positions."""

    def __init__(self, dim: int, num_groups: int, *, bias: bool) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.qkv = Linear(dim, 3 * dim, bias=bias)
        self.proj = Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        n, height, width, dim = x.shape
        count = height * width
        q, k, v = self.qkv(x).reshape(n, count, 3, self.num_groups, -1).transpose(2, 0, 3, 4, 1)
        # spelled out: heads as wide as a map has positions are none of the attention kernels' sizes
        scores = (q * count**-0.5) @ k.swapaxes(-1, -2)
        mixed = mx.softmax(scores, axis=-1, precise=True) @ v
        return self.proj(mixed.transpose(0, 3, 1, 2).reshape(n, height, width, dim))


class DavitHalf(nn.Module):
    """Depthwise convolution and attention, depthwise convolution and perceptron, each added to its input."""

    def __init__(self, stage: DavitStage, act: str) -> None:
        super().__init__()
        self.conv1 = Convolution(stage.dim, stage.dim, 3, padding=1, groups=stage.dim)
        self.norm1 = LayerNorm(stage.dim)
        self.conv2 = Convolution(stage.dim, stage.dim, 3, padding=1, groups=stage.dim)
        self.norm2 = LayerNorm(stage.dim)
        self.ffn = Mlp(stage.dim, stage.hidden, act)

    def attend(self, x: mx.array) -> mx.array:
        raise NotImplementedError

    def __call__(self, x: mx.array) -> mx.array:
        x = self.conv1(x) + x
        x = x + self.attend(self.norm1(x))
        x = self.conv2(x) + x
        return x + self.ffn(self.norm2(x))


class SpatialHalf(DavitHalf):
    def __init__(self, stage: DavitStage, config: DavitConfig) -> None:
        super().__init__(stage, config.act)
        self.window_attn = WindowAttention(stage.dim, stage.num_heads, config.window, bias=config.qkv_bias)

    def attend(self, x: mx.array) -> mx.array:
        return self.window_attn(x)


class ChannelHalf(DavitHalf):
    def __init__(self, stage: DavitStage, config: DavitConfig) -> None:
        super().__init__(stage, config.act)
        self.channel_attn = ChannelAttention(stage.dim, stage.num_groups, bias=config.qkv_bias)

    def attend(self, x: mx.array) -> mx.array:
        return self.channel_attn(x)


class DavitBlock(nn.Module):
    def __init__(self, stage: DavitStage, config: DavitConfig) -> None:
        super().__init__()
        self.spatial_block = SpatialHalf(stage, config)
        self.channel_block = ChannelHalf(stage, config)

    def __call__(self, x: mx.array) -> mx.array:
        return self.channel_block(self.spatial_block(x))


class StageEmbed(nn.Module):
    """The strided convolution that opens a stage, with a norm before or after it."""

    def __init__(self, stage: DavitStage) -> None:
        super().__init__()
        self.norm_first = stage.norm_first
        self.conv = Convolution(stage.in_dim, stage.dim, stage.kernel, stride=stage.stride, padding=stage.padding)
        self.norm = LayerNorm(stage.in_dim if stage.norm_first else stage.dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))


class Davit(nn.Module):
    """Names are those of transformers' Florence2VisionBackbone."""

    def __init__(self, config: DavitConfig) -> None:
        super().__init__()
        self.convs = [StageEmbed(stage) for stage in config.stages]
        self.blocks = [[DavitBlock(stage, config) for _ in range(stage.depth)] for stage in config.stages]

    def __call__(self, pixels: mx.array) -> mx.array:
        """pixels: [n, 3, H, W] -> the last stage's map [n, h, w, dim]."""
        x = pixels.transpose(0, 2, 3, 1)
        for embed, blocks in zip(self.convs, self.blocks, strict=True):
            x = embed(x)
            for block in blocks:
                x = block(x)
        return x
