"""SigLIP's vision transformer (arXiv:2303.15343): square pictures, no class token, learnt positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..core.config import check, take
from ..errors import ModelError
from ..layers.activation import activation
from ..layers.encoder import Encoder
from ..layers.linear import Embedding, Linear
from ..layers.norm import LayerNorm
from ..layers.patches import cut_patches


@dataclass(frozen=True)
class SiglipConfig:
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
    extra_tokens: int = 0

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], **defaults: Any) -> SiglipConfig:
        """From a vision_config; absent keys have the defaults of SiglipVisionConfig, or those given. Raises ConfigError."""
        hf = defaults | {key: value for key, value in hf.items() if value is not None}
        config = cls(
            take(hf, "hidden_size", int, 768),
            take(hf, "num_hidden_layers", int, 12),
            take(hf, "num_attention_heads", int, 12),
            take(hf, "intermediate_size", int, 3072),
            take(hf, "hidden_act", str, "gelu_pytorch_tanh"),
            take(hf, "layer_norm_eps", float, 1e-6),
            take(hf, "num_channels", int, 3),
            take(hf, "image_size", int, 224),
            take(hf, "patch_size", int, 16),
        )
        activation(config.act)
        check(config.dim % config.num_heads == 0, f"vision dim {config.dim} does not split into heads")
        return config

    @property
    def side(self) -> int:
        """Patches a side."""
        return self.image // self.patch

    @property
    def num_tokens(self) -> int:
        """Rows a picture yields."""
        return self.side**2


def bucket_positions(rows: int, columns: int, side: int) -> mx.array:
    """int32 [rows * columns]: the cell of a side x side table of positions that each patch of any grid falls in (Idefics2).

    Fractions and borders are float32 as in the reference: which side of a border a patch falls on depends on it."""

    def buckets(count: int) -> np.ndarray:
        fractions = np.arange(count, dtype=np.float32) * (np.float32(1) / np.float32(count))
        borders = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
        return np.searchsorted(borders, np.minimum(fractions, np.float32(1 - 1e-6)), side="right")

    return mx.array((buckets(rows)[:, None] * side + buckets(columns)[None, :]).reshape(-1).astype(np.int32))


class SiglipEmbeddings(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.patch_embedding = Linear(config.channels * config.patch**2, config.dim)
        self.position_embedding = Embedding(config.num_tokens, config.dim)

    def __call__(self, pixels: mx.array, positions: mx.array | None = None) -> mx.array:
        patches = self.patch_embedding(cut_patches(pixels, self.patch).astype(self.patch_embedding.weight.dtype))
        if positions is None:
            positions = mx.arange(patches.shape[1])
        return patches + self.position_embedding(positions)


class Siglip(nn.Module):
    """Names are those of SiglipVisionModel without its inner `vision_model` and without its pooling head."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = SiglipEmbeddings(config)
        self.encoder = Encoder(config.depth, config.dim, config.num_heads, config.hidden, config.act, config.norm_eps)
        self.post_layernorm = LayerNorm(config.dim, config.norm_eps)

    def __call__(self, pixels: mx.array, positions: mx.array | None = None) -> list[mx.array]:
        """pixels: [n, C, H, W] -> all states [n, patches, dim]: the embeddings, then each layer's output; none through
        `post_layernorm`. positions: int32 [patches], rows of the position table; None: a picture of the table's own size.

        Raises ModelError for another size without positions."""
        size = self.config.image
        if positions is None and tuple(pixels.shape[2:]) != (size, size):
            raise ModelError(f"SigLIP takes pictures of {size}x{size}, got {pixels.shape[2]}x{pixels.shape[3]}")
        return self.encoder(self.embeddings(pixels, positions))

    def bucketed(self, pixels: mx.array) -> mx.array:
        """The last state through `post_layernorm` of pictures of any size, positions by bucket: [n, patches, dim]."""
        rows, columns = pixels.shape[2] // self.config.patch, pixels.shape[3] // self.config.patch
        return self.last(pixels, bucket_positions(rows, columns, self.config.side))

    def last(self, pixels: mx.array, positions: mx.array | None = None) -> mx.array:
        """The last state through `post_layernorm`: [n, patches, dim]."""
        return self.post_layernorm(self(pixels, positions)[-1])
