"""PaddleOCR-VL (arXiv:2510.14528): SigLIP's layers at native resolution with rotary positions, 2 x 2 patches joined into a
token, an Ernie 4.5 decoder with M-RoPE.

Reference: transformers, PaddleOCRVLForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_kernels import rope

from ..backbones.decoder import Decoder, DecoderConfig
from ..core.config import check, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Drop, Flatten, Rename, Rule
from ..fusion.model import DecoderModel, decoder_rules
from ..layers.activation import gelu
from ..layers.attention import Tables, encoder_attention, merge_heads, split_heads
from ..layers.encoder import EncoderAttention
from ..layers.linear import Linear
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm
from ..layers.resample import resample_table
from ..processing.base import Processing
from ..processing.grid import GridProcessing
from ..processing.image.dynamic import RasterStrategy
from ..towers.qwen_vit import rotary_2d, rotary_theta
from ..towers.siglip import SiglipConfig, SiglipEmbeddings


@dataclass(frozen=True)
class Config:
    """theta: base of the tower's rotary frequencies."""

    vision: SiglipConfig
    merge: int
    theta: float
    text: DecoderConfig
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        given = sub(hf, "vision_config", "paddleocr_vl_vision", "paddleocr_vl")
        vision = SiglipConfig.from_hf(
            given,
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        )
        check(vision.dim % (4 * vision.num_heads) == 0, f"vision dim {vision.dim} does not split into heads")
        # published files keep the text values at the top level, transformers 5 nests them
        named = sub(hf, "text_config", "paddleocr_vl_text", "paddleocr_vl") if hf.get("text_config") else hf
        values = {"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "head_dim": 128, **named}
        bias = take(values, "use_bias", bool, False)
        text = DecoderConfig.from_hf(
            values,
            qkv_bias=bias,
            out_bias=bias,
            mlp_bias=bias,
            tied=take(hf, "tie_word_embeddings", bool, True),
            windows=(None,) * take(values, "num_hidden_layers", int),
        )
        sections = text.rope.sections or (16, 24, 24)
        check(sum(sections) == text.rope.dim // 2, f"mrope_section {sections} must sum to {text.rope.dim // 2}")
        text = replace(text, rope=replace(text.rope, sections=sections))
        merge = take(given, "spatial_merge_size", int, 2)
        return cls(vision, merge, rotary_theta(given), text, take(hf, "image_token_id", int, 100295))


class RotaryAttention(EncoderAttention):
    def __call__(self, x: mx.array, tables: Tables) -> mx.array:  # type: ignore[override]
        """x: [1, n, dim]."""
        q, k, v = (split_heads(project(x), self.num_heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        out = encoder_attention(rope(q, *tables), rope(k, *tables), v, scale=q.shape[-1] ** -0.5)
        return self.out_proj(merge_heads(out))


class Layer(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(config.dim, config.norm_eps)
        self.self_attn = RotaryAttention(config.dim, config.num_heads)
        self.layer_norm2 = LayerNorm(config.dim, config.norm_eps)
        self.mlp = Mlp(config.dim, config.hidden, config.act)

    def __call__(self, x: mx.array, tables: Tables) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x), tables)
        return x + self.mlp(self.layer_norm2(x))


class Tower(nn.Module):
    """Flat patches of one picture, row by row, [h * w, C * patch^2] -> [h * w, dim]."""

    def __init__(self, config: SiglipConfig, theta: float) -> None:
        super().__init__()
        self.head_dim, self.theta = config.dim // config.num_heads, theta
        self.embeddings = SiglipEmbeddings(config)
        self.layers = [Layer(config) for _ in range(config.depth)]
        self.post_layernorm = LayerNorm(config.dim, config.norm_eps)

    def __call__(self, patches: mx.array, height: int, width: int) -> mx.array:
        embeddings = self.embeddings
        x = embeddings.patch_embedding(patches.astype(embeddings.patch_embedding.weight.dtype))
        table = embeddings.position_embedding(mx.arange(embeddings.position_embedding.weight.shape[0]))
        positions = resample_table(table, height, width, "linear").reshape(height * width, -1)
        x = (x + positions.astype(x.dtype))[None]
        tables = rotary_2d(np.stack(np.divmod(np.arange(height * width), width), axis=1), self.head_dim, self.theta)
        for layer in self.layers:
            x = layer(x, tables)
        return self.post_layernorm(x)[0]


class Projector(nn.Module):
    """Norm, join merge x merge patches, two linear maps."""

    def __init__(self, dim: int, out_dim: int, merge: int) -> None:
        super().__init__()
        self.merge = merge
        self.pre_norm = LayerNorm(dim, 1e-5)
        self.linear_1 = Linear(dim * merge**2, dim * merge**2)
        self.linear_2 = Linear(dim * merge**2, out_dim)

    def __call__(self, x: mx.array, height: int, width: int) -> mx.array:
        """[h * w, dim] -> [h * w / merge^2, out_dim]."""
        merge = self.merge
        cells = self.pre_norm(x).reshape(height // merge, merge, width // merge, merge, -1).swapaxes(1, 2)
        return self.linear_2(gelu(self.linear_1(cells.reshape(-1, self.linear_1.weight.shape[0]))))


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.visual = Tower(config.vision, config.theta)
        self.projector = Projector(config.vision.dim, config.text.dim, config.merge)
        self.language_model = Decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [self._encode(mx.array(item.arrays["patches"]), *item.grid[1:]) for item in items]

    def _encode(self, patches: mx.array, height: int, width: int) -> Features:
        return Features(self.projector(self.visual(patches, height, width), height, width))


def weights(config: Config) -> Sequence[Rule]:
    """Published: visual.vision_model.*, mlp_AR.*, model.*, lm_head; in memory model.visual.*, model.projector.*."""
    return (
        Rename("model.visual.*", "visual.*"),
        Rename("vision_tower.*", "visual.*"),
        Rename("visual.vision_model.*", "visual.*"),
        Rename("visual.encoder.layers.*", "visual.layers.*"),
        Rename("mlp_AR.*", "projector.*"),
        Rename("model.projector.*", "projector.*"),
        Drop("visual.head.*"),
        Drop("visual.embeddings.packing_position_embedding.*"),
        Drop("visual.embeddings.position_ids"),
        *decoder_rules(tied=config.text.tied),
        Rename("model.*", "language_model.*"),
        Flatten("visual.embeddings.patch_embedding.weight"),
    )


class PatchProcessing(GridProcessing):
    """The reference keeps patches as pictures [n, 3, patch, patch]."""

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        flat = {name: a.reshape(len(a), -1) if name == "pixel_values" else a for name, a in arrays.items()}
        return super().unpack(flat)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    base = RasterStrategy(config.vision.patch, config.merge, 1, 384 * 384, 1536 * 1536)
    images = RasterStrategy.from_files(files.image, base)
    return PatchProcessing(config.image_token, None, images, images, table)


FAMILY = Family(
    name="paddleocr_vl",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    keep_full=("visual.*", "projector.*"),
)
