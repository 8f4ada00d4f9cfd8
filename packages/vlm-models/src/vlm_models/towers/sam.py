"""SAM's image encoder (arXiv:2304.02643) with a neck and two convolutions that shrink the map fourfold: the first half of
DeepSeek-OCR's vision (arXiv:2510.18234). Windows and whole maps with relative positions; names are DeepSeek-OCR's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_kernels import attention

from ..core.config import check, expect, take
from ..core.weights import Flatten, Rename, Rule, Transpose
from ..layers.activation import activation
from ..layers.linear import Linear
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm
from ..layers.patches import cut_patches
from ..layers.resample import resample_matrix, resample_smooth

SHRINK = 4


@dataclass(frozen=True)
class SamConfig:
    """image, patch: pixels a side. window: patches a side. full: layers that see the whole map. neck, widths: channels behind
    the last layer and behind the two convolutions."""

    dim: int
    depth: int
    num_heads: int
    hidden: int
    act: str
    norm_eps: float
    channels: int
    image: int
    patch: int
    window: int
    full: tuple[int, ...]
    qkv_bias: bool
    neck: int
    widths: tuple[int, int]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> SamConfig:
        expect(hf, "use_abs_pos", True)
        expect(hf, "use_rel_pos", True)
        dim = take(hf, "hidden_size", int, 768)
        widths = take(hf, "downsample_channels", list, [512, 896])
        check(len(widths) == 2, f"downsample_channels {widths} must be two")
        config = cls(
            dim=dim,
            depth=take(hf, "num_hidden_layers", int, 12),
            num_heads=take(hf, "num_attention_heads", int, 12),
            hidden=take(hf, "mlp_dim", int, int(dim * take(hf, "mlp_ratio", float, 4.0))),
            act=take(hf, "hidden_act", str, "gelu"),
            norm_eps=take(hf, "layer_norm_eps", float, 1e-6),
            channels=take(hf, "num_channels", int, 3),
            image=take(hf, "image_size", int, 1024),
            patch=take(hf, "patch_size", int, 16),
            window=take(hf, "window_size", int, 14),
            full=tuple(take(hf, "global_attn_indexes", list, [2, 5, 8, 11])),
            qkv_bias=take(hf, "qkv_bias", bool, True),
            neck=take(hf, "output_channels", int, 256),
            widths=(widths[0], widths[1]),
        )
        activation(config.act)
        check(config.dim % config.num_heads == 0, f"vision dim {config.dim} does not split into heads")
        return config

    def num_tokens(self, image: int) -> int:
        """Cells of the map of a square picture of `image` pixels a side."""
        return (-(-image // self.patch // SHRINK)) ** 2


def relative_table(table: mx.array, size: int) -> mx.array:
    """[n, D] by distance -> [size, size, D]: of query i and key j. A table of another length is stretched."""
    span = 2 * size - 1
    if table.shape[0] != span:
        matrix = mx.array(resample_matrix(span, table.shape[0], "linear"))
        table = (matrix @ table.astype(mx.float32)).astype(table.dtype)
    index = np.arange(size)[:, None] - np.arange(size)[None] + size - 1
    return table[mx.array(index)]


class SamAttention(nn.Module):
    """Attention over a map [n, h, w, dim]; scores get the query's products with tables of row and column distances."""

    def __init__(self, config: SamConfig, side: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        head_dim = config.dim // config.num_heads
        self.qkv = Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.proj = Linear(config.dim, config.dim)
        self.rel_pos_h = mx.zeros((2 * side - 1, head_dim))
        self.rel_pos_w = mx.zeros((2 * side - 1, head_dim))

    def __call__(self, x: mx.array) -> mx.array:
        n, h, w, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, h * w, 3, self.num_heads, -1).transpose(2, 0, 3, 1, 4)
        cells = q.reshape(n, self.num_heads, h, w, -1)
        rows = cells @ relative_table(self.rel_pos_h, h).swapaxes(-1, -2)
        columns = (cells.swapaxes(2, 3) @ relative_table(self.rel_pos_w, w).swapaxes(-1, -2)).swapaxes(2, 3)
        bias = (rows[..., :, None] + columns[..., None, :]).reshape(n, self.num_heads, h * w, h * w)
        out = attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=bias)
        return self.proj(out.transpose(0, 2, 1, 3).reshape(n, h, w, dim))


class SamBlock(nn.Module):
    """window 0: the whole map."""

    def __init__(self, config: SamConfig, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = LayerNorm(config.dim, config.norm_eps)
        self.attn = SamAttention(config, window or config.image // config.patch)
        self.norm2 = LayerNorm(config.dim, config.norm_eps)
        self.mlp = Mlp(config.dim, config.hidden, config.act)

    def __call__(self, x: mx.array) -> mx.array:
        inner = self.norm1(x)
        x = x + (self._in_windows(inner) if self.window else self.attn(inner))
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x: mx.array) -> mx.array:
        """Edges are filled up with zeros, which take part as keys."""
        (n, h, w, dim), side = x.shape, self.window
        x = mx.pad(x, [(0, 0), (0, -h % side), (0, -w % side), (0, 0)])
        rows, columns = x.shape[1] // side, x.shape[2] // side
        cells = x.reshape(n, rows, side, columns, side, dim).swapaxes(2, 3).reshape(-1, side, side, dim)
        joined = self.attn(cells).reshape(n, rows, columns, side, side, dim).swapaxes(2, 3)
        return joined.reshape(n, rows * side, columns * side, dim)[:, :h, :w]


class Filter(nn.Module):
    """A convolution of 3 x 3 without bias. weight: [out, 3, 3, in]."""

    def __init__(self, in_size: int, out_size: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_size, 3, 3, in_size))
        self.stride = stride

    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv2d(x, self.weight, self.stride, 1)


class Sam(nn.Module):
    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image // config.patch
        self.patch_embed = Linear(config.channels * config.patch**2, config.dim)
        self.pos_embed = mx.zeros((1, side, side, config.dim))
        self.blocks = [SamBlock(config, 0 if i in config.full else config.window) for i in range(config.depth)]
        # numbered as in the checkpoint
        self.neck: list[nn.Module] = [
            Linear(config.dim, config.neck, bias=False),
            LayerNorm(config.neck, 1e-6),
            Filter(config.neck, config.neck, 1),
            LayerNorm(config.neck, 1e-6),
        ]
        self.net_2 = Filter(config.neck, config.widths[0], 2)
        self.net_3 = Filter(config.widths[0], config.widths[1], 2)

    def __call__(self, pixels: mx.array) -> mx.array:
        """pixels: [n, C, H, W] -> [n, cells, widths[1]], row by row."""
        patch = self.config.patch
        rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
        x = self.patch_embed(cut_patches(pixels, patch).astype(self.pos_embed.dtype))
        x = x.reshape(len(pixels), rows, columns, -1)
        positions = self.pos_embed
        if positions.shape[1:3] != (rows, columns):
            positions = resample_smooth(positions, rows, columns).astype(positions.dtype)
        x = x + positions
        for block in self.blocks:
            x = block(x)
        for part in self.neck:
            x = part(x)
        x = self.net_3(self.net_2(x))
        return x.reshape(len(pixels), -1, x.shape[-1])


def sam_rules(name: str) -> tuple[Rule, ...]:
    """For names that already start with `name`, published ones inside."""
    return (
        Rename(f"{name}.patch_embed.proj.*", f"{name}.patch_embed.*"),
        Rename(f"{name}.blocks.#.mlp.lin#.*", f"{name}.blocks.#.mlp.fc#.*"),
        Flatten(f"{name}.patch_embed.weight"),
        Flatten(f"{name}.neck.0.weight"),
        Transpose(f"{name}.neck.2.weight", (0, 2, 3, 1)),
        Transpose(f"{name}.net_#.weight", (0, 2, 3, 1)),
    )
