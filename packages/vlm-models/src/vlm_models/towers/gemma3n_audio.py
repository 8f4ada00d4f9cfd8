"""Gemma 3n's audio tower: mel frames thinned out four times by convolutions that look ahead, normed by all that was heard so far,
then Gemma 4's conformer layers without bounds on their maps, and every few frames of the result.

Names are those of Gemma 4's tower; `gemma3n_audio_rules` turns the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.config import check, expect, take
from ..core.weights import Flatten, Rename, Rule, Transpose
from ..layers.convolution import convolved_size
from ..layers.linear import Linear
from .gemma4_audio import AudioLayer, Gemma4AudioConfig, sinusoids


@dataclass(frozen=True)
class Gemma3nAudioConfig:
    """bins: of a mel frame. group_eps: of the norms between convolutions. reduction: frames of the layers to one that leaves."""

    layers: Gemma4AudioConfig
    bins: int
    group_eps: float
    reduction: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Gemma3nAudioConfig:
        """From an audio_config. Raises ConfigError."""
        expect(hf, "model_type", "gemma3n_audio")
        expect(hf, "conf_attention_context_right", 0)
        for key, size in (("sscp_conv_kernel_size", 3), ("sscp_conv_stride_size", 2)):
            expect({key: [list(pair) for pair in hf.get(key) or [[size] * 2] * 2]}, key, [[size] * 2] * 2)
        dim, heads = take(hf, "hidden_size", int, 1536), take(hf, "conf_num_attention_heads", int, 8)
        check(dim % (2 * heads) == 0, f"audio hidden_size {dim} must be a multiple of twice its {heads} heads")
        channels: Sequence[int] = take(hf, "sscp_conv_channel_size", (list, tuple), (128, 32))
        check(len(channels) == 2, "sscp_conv_channel_size must name two widths")
        reach = max(take(hf, "conf_attention_context_left", int, 13), 1)
        reduction = max(take(hf, "conf_reduction_factor", int, 4), 1)
        layers = Gemma4AudioConfig(
            dim=dim,
            depth=take(hf, "conf_num_hidden_layers", int, 12),
            num_heads=heads,
            act="silu",
            channels=(channels[0], channels[1]),
            taps=take(hf, "conf_conv_kernel_size", int, 5),
            residual=take(hf, "conf_residual_weight", float, 0.5),
            reach=reach,
            horizon=reach,
            cap=take(hf, "conf_attention_logit_cap", float, 50.0),
            limit=take(hf, "gradient_clipping", float, 1e10),
            clipped=False,
            norm_eps=take(hf, "rms_norm_eps", float, 1e-6),
            out=dim,
            key_scale=1.0,
        )
        group_eps = take(hf, "sscp_conv_group_norm_eps", float, 1e-3)
        return cls(layers, take(hf, "input_feat_size", int, 128), group_eps, reduction)

    def heard(self, frames: int) -> int:
        """Rows that leave the tower for so many of the layers' frames."""
        return -(-frames // self.reduction)


class RunningNorm(nn.Module):
    """Mean and variance over all bins and channels of a frame and of those before it; each frame counts with the distance from
    the mean of its own time."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((channels,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """[n, T, F, channels]."""
        y = x.astype(mx.float32)
        counts = (mx.arange(x.shape[1]) + 1)[None, :, None, None] * (x.shape[2] * x.shape[3])
        centred = y - mx.cumsum(y.sum(axis=(2, 3), keepdims=True), axis=1) / counts
        variance = mx.cumsum(mx.square(centred).sum(axis=(2, 3), keepdims=True), axis=1) / counts
        return (centred * mx.rsqrt(variance + self.eps) * self.weight.astype(mx.float32)).astype(x.dtype)


class Thinning(nn.Module):
    """Convolution of 3 x 3 that keeps every second frame and bin and looks two frames ahead; norm; relu."""

    def __init__(self, in_size: int, out_size: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Module()
        self.conv.weight = mx.zeros((out_size, 3, 3, in_size))
        self.norm = RunningNorm(out_size, eps)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, T, F, in] -> [n, ceil(T / 2), ceil(F / 2), out]."""
        weight = self.conv.weight
        x = mx.pad(x.astype(weight.dtype), [(0, 0), (0, 2), (1, 1), (0, 0)])
        return mx.maximum(self.norm(mx.conv2d(x, weight, 2)), 0)


class SubsampleProjection(nn.Module):
    def __init__(self, config: Gemma3nAudioConfig) -> None:
        super().__init__()
        channels = config.layers.channels
        self.layer0 = Thinning(1, channels[0], config.group_eps)
        self.layer1 = Thinning(*channels, config.group_eps)
        bins = convolved_size(convolved_size(config.bins, 3, 2, 1), 3, 2, 1)
        self.input_proj_linear = Linear(bins * channels[1], config.layers.dim, bias=False)

    def __call__(self, mel: mx.array) -> mx.array:
        """[n, T, F] -> [n, ceil(T / 4), dim]."""
        x = self.layer1(self.layer0(mel[..., None]))
        return self.input_proj_linear(x.reshape(*x.shape[:2], -1))


class Gemma3nAudio(nn.Module):
    def __init__(self, config: Gemma3nAudioConfig) -> None:
        super().__init__()
        self.subsample_conv_projection = SubsampleProjection(config)
        self.layers = [AudioLayer(config.layers) for _ in range(config.layers.depth)]
        self._distances = sinusoids(config.layers)
        self.reduction = config.reduction

    def __call__(self, mel: mx.array, frames: int) -> mx.array:
        """Log mel frames [n, T, F] -> [n, ceil(frames / reduction), dim]. frames: of the layers, that count; those mel frames
        behind them that the convolutions look ahead at may follow."""
        x = self.subsample_conv_projection(mel)[:, :frames]
        distances = self._distances.astype(x.dtype)
        for layer in self.layers:
            x = layer(x, distances)
        return x[:, :: self.reduction]


def gemma3n_audio_rules(name: str) -> tuple[Rule, ...]:
    """The checkpoint's names as Gemma 4's tower has them; convolutions in MLX's order; filters as matrices."""
    layer, attention = f"{name}.layers.#", f"{name}.conformer.#.attention"
    own = ("q_proj", "k_proj", "v_proj", "post")
    plain = ("*.ffw_layer_#", "*.linear_start", "*.linear_end", *(f"*.self_attn.{part}" for part in own))
    return (
        *(Rename(f"{name}.subsample_conv_projection.conv_{i}.*", f"{name}.subsample_conv_projection.layer{i}.*")
          for i in (0, 1)),
        Rename(f"{attention}.pre_attn_norm.*", f"{layer}.norm_pre_attn.*"),
        Rename(f"{attention}.post_norm.*", f"{layer}.norm_post_attn.*"),
        Rename(f"{attention}.attn.relative_position_embedding.pos_proj.*", f"{layer}.self_attn.relative_k_proj.*"),
        Rename(f"{attention}.attn.*", f"{layer}.self_attn.*"),
        Rename(f"{attention}.post.*", f"{layer}.self_attn.post.*"),
        Rename(f"{name}.conformer.#.ffw_layer_start.*", f"{layer}.feed_forward1.*"),
        Rename(f"{name}.conformer.#.ffw_layer_end.*", f"{layer}.feed_forward2.*"),
        Rename(f"{name}.conformer.#.norm.*", f"{layer}.norm_out.*"),
        Rename(f"{name}.conformer.*", f"{name}.layers.*"),
        *(Rename(f"{name}.layers.{place}.{part}", f"{name}.layers.{place}.linear.{part}")
          for place in plain for part in ("weight", "scales", "biases")),
        Transpose(f"{name}.subsample_conv_projection.*.conv.weight", (0, 2, 3, 1)),
        Flatten(f"{name}.layers.*.depthwise_conv1d.weight"),
    )  # fmt: skip
