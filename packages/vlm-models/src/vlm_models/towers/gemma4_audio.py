"""Gemma 4's audio tower: mel frames thinned out four times by convolutions, then conformer layers (arXiv:2005.08100) whose
attention looks back a few frames with relative positions (arXiv:1901.02860).

Names are the checkpoint's: subsample_conv_projection.{layer0,layer1,input_proj_linear}, layers.*, output_proj.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..core.config import check, expect, take
from ..core.weights import Flatten, Rule, Transpose
from ..layers.activation import activation, softplus
from ..layers.attention import merge_heads, split_heads
from ..layers.clipped import ClippedLinear
from ..layers.gated_delta import CausalConv
from ..layers.linear import Linear
from ..layers.norm import LayerNorm, RMSNorm


@dataclass(frozen=True)
class Gemma4AudioConfig:
    """reach: frames that a frame sees, itself among them. horizon: frames back that relative positions count from."""

    dim: int
    depth: int
    num_heads: int
    act: str
    channels: tuple[int, int]
    taps: int
    residual: float
    reach: int
    horizon: int
    cap: float
    limit: float
    clipped: bool
    norm_eps: float
    out: int
    key_scale: float = math.log(1 + math.e) / math.log(2)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Gemma4AudioConfig:
        """From an audio_config. Raises ConfigError."""
        expect(hf, "model_type", "gemma4_audio")
        expect(hf, "attention_context_right", 0)
        dim, heads = take(hf, "hidden_size", int, 1024), take(hf, "num_attention_heads", int, 8)
        check(dim % (2 * heads) == 0, f"audio hidden_size {dim} must be a multiple of twice its {heads} heads")
        channels: Sequence[int] = take(hf, "subsampling_conv_channels", (list, tuple), (128, 32))
        check(len(channels) == 2, "subsampling_conv_channels must name two widths")
        past = take(hf, "attention_context_left", int, 13) - 1
        context = take(hf, "attention_chunk_size", int, 12) + past
        check(context // 2 >= past >= 1, f"audio attention sees {past} frames back of a context of {context}")
        act = take(hf, "hidden_act", str, "silu")
        activation(act)
        return cls(
            dim=dim,
            depth=take(hf, "num_hidden_layers", int, 12),
            num_heads=heads,
            act=act,
            channels=(channels[0], channels[1]),
            taps=take(hf, "conv_kernel_size", int, 5),
            residual=take(hf, "residual_weight", float, 0.5),
            reach=past,
            horizon=context // 2,
            cap=take(hf, "attention_logit_cap", float, 50.0),
            limit=take(hf, "gradient_clipping", float, 1e10),
            clipped=take(hf, "use_clipped_linears", bool, True),
            norm_eps=take(hf, "rms_norm_eps", float, 1e-6),
            out=take(hf, "output_proj_dims", int, 1536),
        )


def bounded(x: mx.array, limit: float) -> mx.array:
    """x within +-limit, and within what its type holds."""
    limit = min(limit, float(mx.finfo(x.dtype).max))
    return mx.clip(x, -limit, limit)


class Thinning(nn.Module):
    """Convolution of 3 x 3 that keeps every second frame and bin; norm over channels; relu."""

    def __init__(self, in_size: int, out_size: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Module()
        self.conv.weight = mx.zeros((out_size, 3, 3, in_size))
        self.norm = LayerNorm(out_size, eps, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, T, F, in] -> [n, ceil(T / 2), ceil(F / 2), out]."""
        weight = self.conv.weight
        return mx.maximum(self.norm(mx.conv2d(x.astype(weight.dtype), weight, 2, 1)), 0)


class SubsampleProjection(nn.Module):
    def __init__(self, config: Gemma4AudioConfig) -> None:
        super().__init__()
        self.layer0 = Thinning(1, config.channels[0], config.norm_eps)
        self.layer1 = Thinning(*config.channels, config.norm_eps)
        self.input_proj_linear = Linear(config.channels[0] // 4 * config.channels[1], config.dim, bias=False)

    def __call__(self, mel: mx.array) -> mx.array:
        """[n, T, F] -> [n, ceil(T / 4), dim]."""
        x = self.layer1(self.layer0(mel[..., None]))
        return self.input_proj_linear(x.reshape(*x.shape[:2], -1))


class AudioAttention(nn.Module):
    """Each frame sees the last `reach` frames; scores get a share that depends on the distance, then a soft cap."""

    def __init__(self, config: Gemma4AudioConfig) -> None:
        super().__init__()
        self.config = config
        for name in ("q_proj", "k_proj", "v_proj", "post"):
            self[name] = ClippedLinear(config.dim, config.dim, clipped=config.clipped)
        self.relative_k_proj = Linear(config.dim, config.dim, bias=False)
        self.per_dim_scale = mx.zeros((config.dim // config.num_heads,))

    def __call__(self, x: mx.array, distances: mx.array) -> mx.array:
        """x: [n, T, dim]. distances: [reach, dim], sinusoids of 0, 1, 2... frames back."""
        config, length = self.config, x.shape[1]
        q, k, v = (
            split_heads(project(x).astype(mx.float32), config.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scale = q.shape[-1] ** -0.5 / math.log(2) * softplus(self.per_dim_scale.astype(mx.float32))
        q, k = q * scale, k * config.key_scale
        relative = split_heads(self.relative_k_proj(distances)[None].astype(mx.float32), config.num_heads)
        back = mx.arange(length)[:, None] - mx.arange(length)[None]
        places = mx.broadcast_to(mx.clip(back, 0, config.reach - 1), (*q.shape[:2], length, length))
        scores = q @ k.swapaxes(-1, -2) + mx.take_along_axis(q @ relative.swapaxes(-1, -2), places, axis=-1)
        scores = mx.tanh(scores / config.cap) * config.cap
        scores = mx.where((back >= 0) & (back < config.reach), scores, -mx.inf)
        return self.post(merge_heads(mx.softmax(scores, axis=-1) @ v).astype(x.dtype))


class AudioFeedForward(nn.Module):
    def __init__(self, config: Gemma4AudioConfig) -> None:
        super().__init__()
        self.ffw_layer_1 = ClippedLinear(config.dim, 4 * config.dim, clipped=config.clipped)
        self.ffw_layer_2 = ClippedLinear(4 * config.dim, config.dim, clipped=config.clipped)
        self.pre_layer_norm, self.post_layer_norm = RMSNorm(config.dim, 1e-6), RMSNorm(config.dim, 1e-6)
        self.limit, self.residual = config.limit, config.residual
        self._act = activation(config.act)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.ffw_layer_2(self._act(self.ffw_layer_1(self.pre_layer_norm(bounded(x, self.limit)))))
        return x + self.post_layer_norm(bounded(y, self.limit)) * self.residual


class LightConvolution(nn.Module):
    """A gated linear unit, a filter per channel over the last frames, and a linear map, around a residual."""

    def __init__(self, config: Gemma4AudioConfig) -> None:
        super().__init__()
        self.linear_start = ClippedLinear(config.dim, 2 * config.dim, clipped=config.clipped)
        self.linear_end = ClippedLinear(config.dim, config.dim, clipped=config.clipped)
        self.depthwise_conv1d = CausalConv(config.dim, config.taps)
        self.pre_layer_norm = RMSNorm(config.dim, config.norm_eps)
        self.conv_norm = RMSNorm(config.dim, config.norm_eps)
        self.limit, self.taps = config.limit, config.taps
        self._act = activation(config.act)

    def __call__(self, x: mx.array) -> mx.array:
        value, gate = mx.split(self.linear_start(self.pre_layer_norm(x)), 2, axis=-1)
        y = value * mx.sigmoid(gate)
        y, _ = self.depthwise_conv1d(y, mx.zeros((y.shape[0], self.taps - 1, y.shape[2]), y.dtype))
        return x + self.linear_end(self._act(self.conv_norm(bounded(y, self.limit))))


class AudioLayer(nn.Module):
    """Half a perceptron, attention, convolution, the other half."""

    def __init__(self, config: Gemma4AudioConfig) -> None:
        super().__init__()
        self.feed_forward1, self.feed_forward2 = AudioFeedForward(config), AudioFeedForward(config)
        self.self_attn, self.lconv1d = AudioAttention(config), LightConvolution(config)
        self.norm_pre_attn, self.norm_post_attn = RMSNorm(config.dim, 1e-6), RMSNorm(config.dim, 1e-6)
        self.norm_out = RMSNorm(config.dim, 1e-6)
        self.limit = config.limit

    def __call__(self, x: mx.array, distances: mx.array) -> mx.array:
        x = self.feed_forward1(x)
        y = self.self_attn(self.norm_pre_attn(bounded(x, self.limit)), distances)
        x = x + self.norm_post_attn(bounded(y, self.limit))
        return self.norm_out(bounded(self.feed_forward2(self.lconv1d(x)), self.limit))


class Gemma4Audio(nn.Module):
    def __init__(self, config: Gemma4AudioConfig) -> None:
        super().__init__()
        self.subsample_conv_projection = SubsampleProjection(config)
        self.layers = [AudioLayer(config) for _ in range(config.depth)]
        self.output_proj = Linear(config.dim, config.out)
        self._distances = sinusoids(config)

    def __call__(self, mel: mx.array) -> mx.array:
        """Log mel frames [n, T, F] without padding -> [n, ceil(ceil(T / 2) / 2), out]."""
        x = self.subsample_conv_projection(mel)
        distances = self._distances.astype(x.dtype)
        for layer in self.layers:
            x = layer(x, distances)
        return self.output_proj(x)


def sinusoids(config: Gemma4AudioConfig) -> mx.array:
    """[reach, dim] by distance: sine then cosine, at geometric rates from 1 to 1 / 10000."""
    count = config.dim // 2
    rates = np.exp(np.arange(count) * (-math.log(10000.0) / max(count - 1, 1)))
    angles = (config.horizon - config.reach + np.arange(config.reach))[:, None] * rates
    return mx.array(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32))


def audio_rules(name: str) -> tuple[Rule, ...]:
    """Convolutions in MLX's order; filters as matrices."""
    return (
        Transpose(f"{name}.subsample_conv_projection.*.conv.weight", (0, 2, 3, 1)),
        Flatten(f"{name}.layers.*.depthwise_conv1d.weight"),
    )
