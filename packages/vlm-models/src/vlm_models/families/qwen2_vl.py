"""Qwen2-VL (arXiv:2409.12191): a vision transformer at native resolution, Qwen2 decoder, M-RoPE.

Reference: transformers, Qwen2VLForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..backbones.decoder import Decoder, DecoderConfig
from ..core.attention import Attention
from ..core.cache import CacheSpec
from ..core.config import check, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, Inputs, MediaItem, Output, Span
from ..core.model import Model as BaseModel
from ..core.model import Select
from ..core.weights import Drop, DropCopy, Flatten, Rename, Rule
from ..fusion.names import conversion_names
from ..fusion.scatter import scatter
from ..processing.base import Processing
from ..processing.grid import GridProcessing
from ..processing.image.dynamic import PatchStrategy
from ..towers.qwen_vit import QwenVit, QwenVitConfig


@dataclass(frozen=True)
class Config:
    vision: QwenVitConfig
    text: DecoderConfig
    image_token: int
    video_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        # published files keep the text values at the top level, transformers 5 nests them
        text = dict(sub(hf, "text_config", "qwen2_vl_text", "qwen2_vl") if hf.get("text_config") else hf)
        tied = any(take(part, "tie_word_embeddings", bool, False) for part in (hf, text))
        config = cls(
            QwenVitConfig.from_hf(sub(hf, "vision_config", "qwen2_vl_vision", "qwen2_vl")),
            DecoderConfig.from_hf(text, qkv_bias=True, tied=tied),
            take(hf, "image_token_id", int, 151655),
            take(hf, "video_token_id", int, 151656),
        )
        check(config.vision.out_dim == config.text.dim, "vision hidden_size differs from the text's")
        sections = config.text.rope.sections or (16, 24, 24)
        check(sum(sections) == config.text.rope.dim // 2, f"mrope_section {sections} must sum to half the head")
        return replace(config, text=replace(config.text, rope=replace(config.text.rope, sections=sections)))


class Model(BaseModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.visual = QwenVit(config.vision)
        self.language_model = Decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self.visual(mx.array(item.arrays["patches"]), item.grid)) for item in items]

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        return Inputs(scatter(self.language_model.embed_tokens(tokens), features, spans))

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
        adapters: Sequence[str | None] | None = None,
    ) -> Output:
        return self.language_model(inputs, positions, attention, cache, select=select)

    def cache_spec(self) -> tuple[CacheSpec, ...]:
        return self.language_model.cache_spec()


def weights(config: Config) -> Sequence[Rule]:
    """Published: visual.*, model.*, lm_head. transformers 5: model.visual.*, model.language_model.*. MLX: vision_tower.*."""
    rules: list[Rule] = [
        Rename("model.visual.*", "visual.*"),
        Rename("vision_tower.*", "visual.*"),
        Rename("model.language_model.*", "language_model.*"),
        Rename("language_model.model.*", "language_model.*"),
        Rename("model.*", "language_model.*"),
        Rename("lm_head.*", "language_model.lm_head.*"),
        Drop("*.rotary_emb.inv_freq"),
        Drop("*.rotary_pos_emb.inv_freq"),
        Flatten("visual.patch_embed.proj.weight"),
    ]
    if config.text.tied:
        rules.append(DropCopy("language_model.lm_head", "language_model.embed_tokens"))
    return rules


def mlx_names(config: Config) -> Sequence[Rule]:
    return conversion_names(config.vision.channels, config.vision.frames, config.vision.patch)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    base = PatchStrategy(config.vision.patch, config.vision.merge, config.vision.frames)
    images = PatchStrategy.from_files(files.image, base)
    videos = PatchStrategy.from_files(
        files.video or files.image, replace(base, min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28)
    )
    return GridProcessing(config.image_token, config.video_token, images, videos, table)


FAMILY = Family(
    name="qwen2_vl",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("visual.*",),
    mlx_names=mlx_names,
)
