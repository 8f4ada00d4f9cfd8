"""Gemma 3 (arXiv:2503.19786): SigLIP at one size, its patch map pooled to 256 tokens, a Gemma 3 decoder; a picture's tokens see
each other in both directions.

Reference: transformers, Gemma3ForConditionalGeneration. Deviations: none known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones.gemma import GemmaConfig, GemmaDecoder
from ..core.config import check, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Copy, Flatten, Rename, Rule
from ..fusion.gemma import GemmaModel
from ..fusion.model import conversion_names, decoder_rules, tower_rules
from ..layers.norm import RMSNorm
from ..processing.base import Processing
from ..processing.gemma import BracketedPictures, PanAndScan
from ..processing.image.fixed import FixedStrategy
from ..processing.image.pixels import BILINEAR, HALF_MEAN, HALF_STD, Normalize
from ..towers.siglip import Siglip, SiglipConfig


@dataclass(frozen=True)
class Config:
    """num_tokens: of a picture. brackets: tokens before and behind it."""

    vision: SiglipConfig
    text: GemmaConfig
    num_tokens: int
    image_token: int
    brackets: tuple[int, int]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision = SiglipConfig.from_hf(sub(hf, "vision_config", "siglip_vision_model"))
        tied = take(hf, "tie_word_embeddings", bool, True)
        num_tokens = take(hf, "mm_tokens_per_image", int, 256)
        side = math.isqrt(num_tokens)
        check(
            side * side == num_tokens and vision.side % side == 0,
            f"{vision.side} patches a side do not pool to {num_tokens}",
        )
        return cls(
            vision,
            GemmaConfig.from_hf(sub(hf, "text_config"), "gemma3_text", tied=tied),
            num_tokens,
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 262144)),
            (
                take(hf, "boi_token_index", int, take(hf, "boi_token_id", int, 255999)),
                take(hf, "eoi_token_index", int, take(hf, "eoi_token_id", int, 256000)),
            ),
        )


class Projector(nn.Module):
    """Average pooling of the patch map, norm, one matrix that is stored untransposed."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.out = config.vision.side, math.isqrt(config.num_tokens)
        self.mm_input_projection_weight = mx.zeros((config.vision.dim, config.text.dim))
        self.mm_soft_emb_norm = RMSNorm(config.vision.dim, config.vision.norm_eps, offset=1.0)

    def __call__(self, x: mx.array) -> mx.array:
        """[1, side^2, vision dim] -> [num_tokens, dim]."""
        kernel = self.side // self.out
        cells = x.reshape(self.out, kernel, self.out, kernel, -1).mean(axis=(1, 3)).reshape(self.out**2, -1)
        return self.mm_soft_emb_norm(cells) @ self.mm_input_projection_weight


class Model(GemmaModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_tower = Siglip(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = GemmaDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(mx.concatenate([self._seen(part) for part in item.arrays["pixels"]])) for item in items]

    def _seen(self, pixels: np.ndarray) -> mx.array:
        return self.multi_modal_projector(self.vision_tower.last(mx.array(pixels[None])))


def weights(config: Config) -> Sequence[Rule]:
    """Published: vision_tower.vision_model.*, language_model.model.*; transformers 5 without the inner vision_model."""
    return (
        *tower_rules(),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_tower.embeddings.patch_embedding.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    """Readers elsewhere keep the tied head as a matrix of its own."""
    names = conversion_names(config.vision.channels, config.vision.patch)
    return (*names, Copy("language_model.model.embed_tokens", "language_model.lm_head")) if config.text.tied else names


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    size = (config.vision.image, config.vision.image)
    base = FixedStrategy(size=size, resample=BILINEAR, normalize=Normalize(mean=HALF_MEAN, std=HALF_STD))
    strategy = FixedStrategy.from_files(files.image, base)
    scan = PanAndScan.from_files(files.image)
    return BracketedPictures(config.image_token, config.brackets, strategy, config.num_tokens, table, scan=scan)


FAMILY = Family(
    name="gemma3",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
    mlx_names=mlx_names,
)
