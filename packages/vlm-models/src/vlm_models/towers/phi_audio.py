"""Phi-4's conformer for sounds (arXiv:2503.01743): strided convolutions over mel features, then layers of two half feed-forwards
around attention with learnt biases by distance and a gated causal convolution.
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
from ..core.weights import Flatten, Rename, Rule, Transpose
from ..layers.activation import activation
from ..layers.attention import encoder_attention, merge_heads, split_heads
from ..layers.convolution import Convolution, convolved_size
from ..layers.linear import Embedding, Linear
from ..layers.norm import LayerNorm

# frames that attend to each other; longer sounds go in stretches of so many
STRETCH = 500


@dataclass(frozen=True)
class PhiAudioConfig:
    """act, glu_act, conv_act: of the feed-forward's gate, the convolution's gate, and behind the convolution. thinning: frames of
    features to a token, a power of two. channels: of the strided convolutions. reach: distances with a bias of their own."""

    dim: int
    hidden: int
    depth: int
    num_heads: int
    act: str
    glu_act: str
    conv_act: str
    thin_act: str
    gated: int
    separated: int
    multiplier: int
    kernel: int
    num_mels: int
    thinning: int
    channels: int
    reach: int
    symmetric: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> PhiAudioConfig:
        """From an audio_config of transformers. Raises ConfigError."""
        expect(hf, "chunk_size", -1)
        expect(hf, "downsample_rate", 1)
        dim = take(hf, "hidden_size", int, 1024)
        config = cls(
            dim,
            take(hf, "intermediate_size", int, 1536),
            take(hf, "num_blocks", int, 24),
            take(hf, "num_attention_heads", int, 16),
            take(hf, "activation", str, "swish"),
            take(hf, "conv_glu_type", str, "swish"),
            take(hf, "conv_activation", str, "swish"),
            take(hf, "nemo_activation", str, "relu"),
            take(hf, "ext_pw_out_channel", int, 1024),
            take(hf, "depthwise_separable_out_channel", int, 1024),
            take(hf, "depthwise_multiplier", int, 1),
            take(hf, "kernel_size", int, 3),
            take(hf, "input_size", int, 80),
            take(hf, "time_reduction", int, 8),
            take(hf, "nemo_conv_channels", int, 1024),
            take(hf, "bias_max_distance", int, 1000),
            take(hf, "bias_symmetric", bool, False),
        )
        for name in (config.act, config.glu_act, config.conv_act, config.thin_act):
            activation(name)
        check(config.thinning >= 2 and config.thinning.bit_count() == 1, "time_reduction must be a power of two")
        check(config.dim % config.num_heads == 0, f"audio dim {config.dim} does not split into heads")
        check(config.gated == config.dim == config.separated, "convolutions of the conformer must keep its width")
        return config

    @classmethod
    def from_published(cls, hf: Mapping[str, Any]) -> PhiAudioConfig:
        """From audio_processor.config of phi4mm. Raises ConfigError."""
        expect(hf, "input_layer", "nemo_conv")
        expect(hf, "causal", True)
        bias = hf.get("relative_attention_bias_args") or {}
        expect(bias, "type", "t5")
        # the published file spells it so
        separated = hf.get("depthwise_seperable_out_channel", hf.get("depthwise_separable_out_channel"))
        renamed = {
            "hidden_size": hf.get("attention_dim"),
            "intermediate_size": hf.get("linear_units"),
            "num_attention_heads": hf.get("attention_heads"),
            "depthwise_separable_out_channel": separated,
            "nemo_conv_channels": (hf.get("nemo_conv_settings") or {}).get("conv_channels"),
            "bias_max_distance": bias.get("t5_bias_max_distance"),
            "bias_symmetric": bias.get("t5_bias_symmetric"),
        }
        return cls.from_hf({**hf, **renamed})

    @property
    def strides(self) -> int:
        """Convolutions that halve the frames."""
        return self.thinning.bit_length() - 1


class Thinning(nn.Module):
    """Mel frames to a `thinning`th of them: 3 x 3 convolutions of stride 2, all but the first a channel at a time."""

    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        channels, size = config.channels, config.num_mels
        self.first = Convolution(1, channels, 3, stride=2, padding=1)
        self.depthwise = [
            Convolution(channels, channels, 3, stride=2, padding=1, groups=channels) for _ in range(config.strides - 1)
        ]
        self.pointwise = [Linear(channels, channels) for _ in range(config.strides - 1)]
        for _ in range(config.strides):
            size = convolved_size(size, 3, 2, 1)
        self.out = Linear(channels * size, config.dim)
        self._act = activation(config.thin_act)

    def __call__(self, frames: mx.array) -> mx.array:
        """[T, mels] -> [T / thinning, dim]."""
        x = self._act(self.first(frames[None, ..., None]))
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = self._act(pointwise(depthwise(x)))
        return self.out(x[0].swapaxes(1, 2).reshape(x.shape[1], -1))


class FeedForward(nn.Module):
    """Up first, then the gate, in one projection."""

    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(config.dim)
        self.gate_up_proj = Linear(config.dim, 2 * config.hidden)
        self.down_proj = Linear(config.hidden, config.dim)
        self._act = activation(config.act)

    def __call__(self, x: mx.array) -> mx.array:
        up, gate = mx.split(self.gate_up_proj(self.layer_norm(x)), 2, axis=-1)
        return self.down_proj(up * self._act(gate))


class BiasedAttention(nn.Module):
    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj, self.k_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)
        self.v_proj, self.o_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """bias: [n or 1, heads, L, L], added to the scores."""
        q, k, v = (split_heads(project(x), self.num_heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(merge_heads(encoder_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=bias)))


class Gate(nn.Module):
    """Two halves of one projection, the second through an activation."""

    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        self.ext_pw_conv_1d = Linear(config.dim, 2 * config.gated)
        self.b1, self.b2 = mx.zeros((1, config.gated, 1)), mx.zeros((1, config.gated, 1))
        self._act = activation(config.glu_act)

    def __call__(self, x: mx.array) -> mx.array:
        value, gate = mx.split(self.ext_pw_conv_1d(x), 2, axis=-1)
        return (value + self.b1[:, :, 0]) * self._act(gate + self.b2[:, :, 0])


class SeparableConv(nn.Module):
    """A causal filter for each channel, then a map over channels."""

    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        width = config.dim * config.multiplier
        self.dw_conv, self.pw_conv = Linear(config.kernel, width), Linear(width, config.separated)
        self.multiplier = config.multiplier

    def __call__(self, x: mx.array) -> mx.array:
        taps, length = self.dw_conv.weight, x.shape[1]
        x = mx.repeat(mx.pad(x, [(0, 0), (taps.shape[1] - 1, 0), (0, 0)]), self.multiplier, axis=-1)
        filtered = sum(x[:, tap : tap + length] * taps[:, tap] for tap in range(taps.shape[1])) + self.dw_conv.bias
        return self.pw_conv(filtered)


class ConvModule(nn.Module):
    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(config.dim)
        self.glu = Gate(config)
        self.dw_sep_conv_1d = SeparableConv(config)
        self.ext_pw_conv_1d = Linear(config.separated, config.gated)
        self._act = activation(config.conv_act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.ext_pw_conv_1d(self._act(self.dw_sep_conv_1d(self.glu(self.layer_norm(x)))))


class ConformerLayer(nn.Module):
    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(config)
        self.self_attn = BiasedAttention(config)
        self.conv = ConvModule(config)
        self.feed_forward_out = FeedForward(config)
        self.layer_norm_att, self.layer_norm = LayerNorm(config.dim), LayerNorm(config.dim)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        x = x + 0.5 * self.feed_forward_in(x)
        x = x + self.self_attn(self.layer_norm_att(x), bias)
        x = x + self.conv(x)
        return self.layer_norm(x + 0.5 * self.feed_forward_out(x))


class Standard(nn.Module):
    """Features less their mean, by their deviation; measured, not learnt."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.global_mean, self.global_invstd = mx.zeros((size,)), mx.ones((size,))
        self.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        return (x - self.global_mean) * self.global_invstd


class DistanceBias(nn.Module):
    """A number for each head and distance; distances beyond the table take its ends."""

    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        self.reach, self.symmetric = config.reach, config.symmetric
        self.bias_values = Embedding(config.reach * (1 if config.symmetric else 2), config.num_heads)

    def __call__(self, length: int) -> mx.array:
        """[heads, length, length]."""
        at = np.arange(length)
        distance = np.clip(at[None, :] - at[:, None], -self.reach, self.reach - 1)
        rows = np.minimum(np.abs(distance), self.reach - 1) if self.symmetric else distance + self.reach
        return self.bias_values(mx.array(rows)).transpose(2, 0, 1)


class PhiAudio(nn.Module):
    def __init__(self, config: PhiAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder_embedding = Standard(config.num_mels)
        self.embed = Thinning(config)
        self.relative_attention_bias_layer = DistanceBias(config)
        self.encoders = [ConformerLayer(config) for _ in range(config.depth)]

    def __call__(self, frames: mx.array, num_frames: int | None = None) -> mx.array:
        """[T, mels] -> [T / thinning, dim].

        num_frames: frames that are not filling, where a sound came filled up beside a longer one. The reference adds 1 to their
        scores instead of hiding the others; sounds that are processed here are never filled up."""
        x = self.embed(self.encoder_embedding(frames.astype(self.embed.out.weight.dtype)))
        length = x.shape[0]
        counts = None if num_frames is None else mx.arange(length) < math.ceil(num_frames / self.config.thinning)
        stretch = length if length <= STRETCH else STRETCH
        missing = -length % stretch
        x = mx.pad(x, [(0, missing), (0, 0)]).reshape(-1, stretch, x.shape[-1])
        bias = self.relative_attention_bias_layer(stretch)[None]
        if counts is not None:
            bias = bias + mx.pad(counts, [(0, missing)]).reshape(-1, 1, 1, stretch).astype(bias.dtype)
        for layer in self.encoders:
            x = layer(x, bias)
        return x.reshape(-1, x.shape[-1])[:length]


def audio_rules(config: PhiAudioConfig, at: str) -> Sequence[Rule]:
    """Names under `at`: as transformers has them, or as published; convolutions as matrices where they are maps."""
    own = f"{at}.encoders.#"
    published = [
        Rename(f"{own}.feed_forward_{side}.net.{old}.*", f"{own}.feed_forward_{side}.{new}.*")
        for side in ("in", "out")
        for old, new in (("0.linear", "gate_up_proj"), ("2", "down_proj"))
    ]
    published += [
        Rename(f"{own}.self_attn.linear_{old}.*", f"{own}.self_attn.{new}_proj.*")
        for old, new in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o"))
    ]
    thinning = [Rename(f"{at}.embed.conv.0.*", f"{at}.embed.first.*")]
    for layer in range(config.strides - 1):
        thinning.append(Rename(f"{at}.embed.conv.{3 * layer + 2}.*", f"{at}.embed.depthwise.{layer}.*"))
        thinning.append(Rename(f"{at}.embed.conv.{3 * layer + 3}.*", f"{at}.embed.pointwise.{layer}.*"))
    return (
        *published,
        *thinning,
        Transpose(f"{at}.embed.first.weight", (0, 2, 3, 1)),
        Transpose(f"{at}.embed.depthwise.#.weight", (0, 2, 3, 1)),
        Flatten(f"{at}.embed.pointwise.#.weight"),
        Flatten(f"{at}.encoders.*_conv_1d.weight"),
        Flatten(f"{at}.encoders.*w_conv.weight"),
    )
