"""MobileNet V5 (300M encoder): inverted residuals and multi-query attention over maps, as MobileNet V4 has them
(arXiv:2404.10518), and an adapter that joins the maps of the last two stages.

Reference: timm, mobilenetv5_300m_enc. Maps are channel-last; convolutions keep every stride-th place of a map that is filled up
with zeros on both sides, the odd one at the end. Names are timm's: conv_stem, blocks.STAGE.BLOCK, msfa.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import geglu, linear

from ..core.config import check, expect, sub, take
from ..core.weights import Flatten, Rule, Transpose
from ..layers.attention import encoder_attention, merge_heads, split_heads
from ..layers.linear import Linear
from ..layers.norm import RMSNorm
from ..layers.resample import resample_area, resample_bilinear

_EPS = 1e-6


@dataclass(frozen=True)
class Edge:
    """A dense 3 x 3 convolution that widens, a linear map back."""

    out: int
    stride: int = 1


@dataclass(frozen=True)
class Inverted:
    """Filters per channel before and after a widening map, 0 for none; the last of them strides."""

    out: int
    start: int = 0
    middle: int = 0
    widening: int = 4
    stride: int = 1


@dataclass(frozen=True)
class Attending:
    """Queries everywhere; keys and values at every stride-th place, one head of them for all."""

    out: int
    num_heads: int
    head: int
    stride: int = 1


Block = Edge | Inverted | Attending

_STAGES: tuple[tuple[Block, ...], ...] = (
    (Edge(128, 2), Edge(128), Edge(128)),
    (Inverted(256, 3, 5, 6, 2), *(Inverted(256, start) for start in (5, 3, 5, 3))),
    (
        Inverted(640, 5, 5, 6, 2),
        *(Inverted(640, 5),) * 7,
        Inverted(640, widening=1),
        *(Attending(640, 12, 64, 2), Inverted(640, widening=2)) * 14,
    ),
    (Inverted(1280, 5, 5, 6, 2), *(Attending(1280, 16, 96), Inverted(1280, widening=2)) * 19),
)
_STEM, _OUT = 64, 2048


def eighths(size: float) -> int:
    """The nearest multiple of 8, the next one up where it would be below 0.9 of the size."""
    near = max(8, int(size + 4) // 8 * 8)
    return near if near >= 0.9 * size else near + 8


@dataclass(frozen=True)
class MobileNetConfig:
    """multiplier: of all widths but the result's. out_side: rows and columns of the map that leaves the tower."""

    multiplier: float = 1.0
    out_side: int = 16
    dim: int = _OUT

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> MobileNetConfig:
        """From a vision_config. Raises ConfigError for another architecture or argument."""
        expect(hf, "architecture", "mobilenetv5_300m_enc")
        expect(hf, "hidden_size", _OUT)
        given = sub(hf, "model_args") if hf.get("model_args") is not None else {}
        unknown = set(given) - {"channel_multiplier", "msfa_output_resolution"}
        check(not unknown, f"vision_config: model_args {sorted(unknown)} are not supported")
        multiplier = take(given, "channel_multiplier", float, 1.0)
        check(multiplier > 0, f"channel_multiplier must be positive, found {multiplier}")
        return cls(multiplier, take(given, "msfa_output_resolution", int, 16))

    def width(self, channels: int) -> int:
        return eighths(channels * self.multiplier)

    @property
    def stem(self) -> int:
        return _STEM if self.multiplier < 1 else self.width(_STEM)


def gelu(x: mx.array) -> mx.array:
    """The tanh approximation, by the kernel that multiplies too: the largest share of the tower's time without a GPU."""
    return geglu(x, mx.ones_like(x), approximate="tanh")


class Convolution(nn.Module):
    """[n, H, W, in] -> [n, ceil(H / stride), ceil(W / stride), out]; `grouped`: a filter per channel."""

    def __init__(
        self, in_size: int, out_size: int, kernel: int, stride: int = 1, *, grouped: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.weight = mx.zeros((out_size, kernel, kernel, 1 if grouped else in_size))
        if bias:
            self.bias = mx.zeros((out_size,))
        self.stride, self.groups = stride, in_size if grouped else 1

    def __call__(self, x: mx.array) -> mx.array:
        kernel, stride = self.weight.shape[1], self.stride
        rows, columns = (-(-side // stride) for side in x.shape[1:3])
        fill = [max((n - 1) * stride + kernel - side, 0) for n, side in zip((rows, columns), x.shape[1:3], strict=True)]
        x = mx.pad(x, [(0, 0), *((count // 2, count - count // 2) for count in fill), (0, 0)])
        if self.groups > 1:
            return mx.conv2d(x, self.weight, stride, groups=self.groups)
        # dense convolutions run as a matrix: without a GPU that is 20 times as fast
        down, across = (rows - 1) * stride + 1, (columns - 1) * stride + 1
        places = [(i, j) for i in range(kernel) for j in range(kernel)]
        taps = mx.concatenate([x[:, i : i + down : stride, j : j + across : stride] for i, j in places], axis=-1)
        return linear(taps, self.weight.reshape(self.weight.shape[0], -1), self.get("bias"))


class Normed(nn.Module):
    """A convolution or a map of each place, a norm, and a GELU if `acts`."""

    def __init__(self, conv: nn.Module, out_size: int, *, acts: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = conv, RMSNorm(out_size, _EPS)
        self.acts = acts

    def __call__(self, x: mx.array) -> mx.array:
        y = self.bn(self.conv(x))
        return gelu(y) if self.acts else y


def filtered(size: int, kernel: int, stride: int, *, acts: bool = False) -> Normed:
    return Normed(Convolution(size, size, kernel, stride, grouped=True), size, acts=acts)


def mapped(in_size: int, out_size: int, *, acts: bool = False) -> Normed:
    return Normed(Linear(in_size, out_size, bias=False), out_size, acts=acts)


class Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = mx.ones((dim,))


class EdgeResidual(nn.Module):
    def __init__(self, in_size: int, out_size: int, block: Edge) -> None:
        super().__init__()
        self.conv_exp = Convolution(in_size, eighths(4 * in_size), 3, block.stride)
        self.bn1 = RMSNorm(eighths(4 * in_size), _EPS)
        self.conv_pwl = Linear(eighths(4 * in_size), out_size, bias=False)
        self.bn2 = RMSNorm(out_size, _EPS)
        self.skips = block.stride == 1 and in_size == out_size

    def __call__(self, x: mx.array) -> mx.array:
        y = self.bn2(self.conv_pwl(gelu(self.bn1(self.conv_exp(x)))))
        return x + y if self.skips else y


class InvertedResidual(nn.Module):
    def __init__(self, in_size: int, out_size: int, block: Inverted, *, joins: bool = False) -> None:
        """joins: neither skipped nor scaled, as in the adapter."""
        super().__init__()
        wide = eighths(block.widening * in_size)
        if block.start:
            self.dw_start = filtered(in_size, block.start, 1 if block.middle else block.stride)
        self.pw_exp = mapped(in_size, wide, acts=True)
        if block.middle:
            self.dw_mid = filtered(wide, block.middle, block.stride, acts=True)
        self.pw_proj = mapped(wide, out_size)
        if not joins:
            self.layer_scale = Scale(out_size)
        self.skips = block.stride == 1 and in_size == out_size and not joins

    def __call__(self, x: mx.array) -> mx.array:
        y = self.pw_exp(self.dw_start(x) if "dw_start" in self else x)
        y = self.pw_proj(self.dw_mid(y) if "dw_mid" in self else y)
        if "layer_scale" in self:
            y = y * self.layer_scale.gamma
        return x + y if self.skips else y


class Projection(nn.Module):
    """A map of each place, of a thinned and normed picture where stride is above 1."""

    def __init__(self, in_size: int, out_size: int, stride: int = 1) -> None:
        super().__init__()
        if stride > 1:
            self.down_conv = Convolution(in_size, in_size, 3, stride, grouped=True)
            self.norm = RMSNorm(in_size, _EPS)
        self.proj = Linear(in_size, out_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, H, W, in] -> [n, places, out]."""
        y = self.proj(self.norm(self.down_conv(x)) if "down_conv" in self else x)
        return y.reshape(y.shape[0], -1, y.shape[-1])


class MultiQuery(nn.Module):
    def __init__(self, dim: int, block: Attending) -> None:
        super().__init__()
        self.query = Projection(dim, block.num_heads * block.head)
        self.key, self.value = (Projection(dim, block.head, block.stride) for _ in range(2))
        self.output = Projection(block.num_heads * block.head, dim)
        self.num_heads = block.num_heads

    def __call__(self, x: mx.array) -> mx.array:
        q = split_heads(self.query(x), self.num_heads)
        k, v = self.key(x)[:, None], self.value(x)[:, None]
        seen = merge_heads(encoder_attention(q, k, v, scale=q.shape[-1] ** -0.5))
        return self.output(seen[:, None]).reshape(x.shape)


class AttentionBlock(nn.Module):
    def __init__(self, dim: int, block: Attending) -> None:
        super().__init__()
        self.norm, self.attn, self.layer_scale = RMSNorm(dim, _EPS), MultiQuery(dim, block), Scale(dim)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.attn(self.norm(x)) * self.layer_scale.gamma


class Adapter(nn.Module):
    """Two maps, the second enlarged to the first, through one inverted residual, averaged to the size that leaves the tower."""

    def __init__(self, in_size: int, config: MobileNetConfig) -> None:
        super().__init__()
        self.ffn = InvertedResidual(in_size, config.dim, Inverted(config.dim, widening=2), joins=True)
        self.norm = RMSNorm(config.dim, _EPS)
        self.out_side = config.out_side

    def __call__(self, fine: mx.array, coarse: mx.array) -> mx.array:
        side, (rows, columns) = self.out_side, fine.shape[1:3]
        down, across = (mx.arange(n) * m // n for n, m in zip((rows, columns), coarse.shape[1:3], strict=True))
        x = self.ffn(mx.concatenate([fine, coarse[:, down][:, :, across]], axis=-1))
        fits = rows % side == 0 and columns % side == 0
        return self.norm(resample_area(x, side, side) if fits else resample_bilinear(x, side, side))


class MobileNetV5(nn.Module):
    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.conv_stem = Normed(Convolution(3, config.stem, 3, 2, bias=True), config.stem, acts=True)
        self.blocks: list[list[nn.Module]] = []
        width = config.stem
        for stage in _STAGES:
            self.blocks.append([])
            for block in stage:
                self.blocks[-1].append(_built(block, width, config.width(block.out)))
                width = config.width(block.out)
        self.msfa = Adapter(sum(config.width(stage[-1].out) for stage in _STAGES[-2:]), config)

    def __call__(self, pixels: mx.array) -> mx.array:
        """[n, 3, H, W] -> [n, out_side^2, 2048], row by row."""
        x = self.conv_stem(pixels.transpose(0, 2, 3, 1).astype(self.conv_stem.conv.weight.dtype))
        maps = []
        for stage in self.blocks:
            for block in stage:
                x = block(x)
            maps.append(x)
        joined = self.msfa(*maps[-2:])
        return joined.reshape(joined.shape[0], -1, joined.shape[-1])


def _built(block: Block, in_size: int, out_size: int) -> nn.Module:
    match block:
        case Edge():
            return EdgeResidual(in_size, out_size, block)
        case Inverted():
            return InvertedResidual(in_size, out_size, block)
        case Attending():
            return AttentionBlock(in_size, block)


def mobilenet_rules(name: str) -> tuple[Rule, ...]:
    """Filters in MLX's order; maps of each place as matrices."""
    dense = ("conv_stem.conv", "*.conv_exp", "*.dw_start.conv", "*.dw_mid.conv", "*.down_conv")
    maps = ("*.conv_pwl", "*.pw_exp.conv", "*.pw_proj.conv", "*.proj")
    return (
        *(Transpose(f"{name}.{place}.weight", (0, 2, 3, 1)) for place in dense),
        *(Flatten(f"{name}.{place}.weight") for place in maps),
    )
