"""CLIP's vision transformer (arXiv:2103.00020): square pictures, a class token in front, learnt positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.config import check, take
from ..errors import ModelError
from ..layers.activation import activation
from ..layers.encoder import Encoder
from ..layers.linear import Embedding, Linear
from ..layers.norm import LayerNorm
from ..layers.patches import cut_patches


@dataclass(frozen=True)
class ClipConfig:
    """image, patch: pixels a side."""

    dim: int
    depth: int
    num_heads: int
    hidden: int
    act: str
    norm_eps: float
    channels: int
    image: int
    patch: int
    extra_tokens: int = 1

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ClipConfig:
        """From a vision_config; absent keys have the defaults of CLIPVisionConfig. Raises ConfigError."""
        config = cls(
            take(hf, "hidden_size", int, 768),
            take(hf, "num_hidden_layers", int, 12),
            take(hf, "num_attention_heads", int, 12),
            take(hf, "intermediate_size", int, 3072),
            take(hf, "hidden_act", str, "quick_gelu"),
            take(hf, "layer_norm_eps", float, 1e-5),
            take(hf, "num_channels", int, 3),
            take(hf, "image_size", int, 224),
            take(hf, "patch_size", int, 32),
        )
        activation(config.act)
        check(config.dim % config.num_heads == 0, f"vision dim {config.dim} does not split into heads")
        return config

    @property
    def num_tokens(self) -> int:
        """Rows a picture yields, the class token counted."""
        return (self.image // self.patch) ** 2 + self.extra_tokens


class ClipEmbeddings(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.class_embedding = mx.zeros((config.dim,))
        self.patch_embedding = Linear(config.channels * config.patch**2, config.dim, bias=False)
        self.position_embedding = Embedding(config.num_tokens, config.dim)

    def __call__(self, pixels: mx.array) -> mx.array:
        patches = self.patch_embedding(cut_patches(pixels, self.patch).astype(self.patch_embedding.weight.dtype))
        first = mx.broadcast_to(self.class_embedding, (len(patches), 1, patches.shape[-1]))
        return mx.concatenate([first, patches], axis=1) + self.position_embedding(mx.arange(patches.shape[1] + 1))


class Clip(nn.Module):
    """Names are those of CLIPVisionModel without its inner `vision_model`."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = ClipEmbeddings(config)
        # the checkpoint's own spelling
        self.pre_layrnorm = LayerNorm(config.dim, config.norm_eps)
        self.encoder = Encoder(config.depth, config.dim, config.num_heads, config.hidden, config.act, config.norm_eps)
        self.post_layernorm = LayerNorm(config.dim, config.norm_eps)

    def __call__(self, pixels: mx.array) -> list[mx.array]:
        """pixels: [n, C, image, image] -> all states [n, 1 + patches, dim]: the embeddings, then each layer's output.

        `post_layernorm` belongs to the pooled output alone, which nothing here uses. Raises ModelError for another size."""
        size = self.config.image
        if tuple(pixels.shape[2:]) != (size, size):
            raise ModelError(f"CLIP takes pictures of {size}x{size}, found {pixels.shape[2]}x{pixels.shape[3]}")
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
