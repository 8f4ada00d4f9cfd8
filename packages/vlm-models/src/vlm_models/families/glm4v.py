"""GLM-4.1V and GLM-4.5V's dense kin (arXiv:2507.01006), and GLM-OCR: a vision transformer at native resolution, GLM-4 decoder,
M-RoPE, videos as pictures with their seconds behind them.

Reference: transformers, Glm4vForConditionalGeneration and GlmOcrForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..backbones.glm import GlmConfig, GlmDecoder, glm_rules
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Rule
from ..fusion.model import DecoderModel, decoder_rules
from ..processing.base import Processing
from ..processing.image.dynamic import VolumeStrategy
from ..processing.stamped import SecondsGridProcessing
from ..processing.video.sampling import TickSampling
from ..towers.glm_vit import GlmVit, GlmVitConfig, tower_rules

# ids of published vocabularies: feature token, video placeholder, marks around a picture and a video
_GLM4V = (151343, 151344, 151339, 151340, 151341, 151342)
_OCR = (59280, 59281, 59256, 59257, 59258, 59259)
_ID_KEYS: tuple[str, ...] = ("image_token_id", "video_token_id", "image_start_token_id", "image_end_token_id")
_ID_KEYS += ("video_start_token_id", "video_end_token_id")


@dataclass(frozen=True)
class Config:
    """ids: of the feature token, the video placeholder, the marks around a picture and those around a video."""

    vision: GlmVitConfig
    text: GlmConfig
    ids: tuple[int, ...]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        ocr = expect(hf, "model_type", "glm4v", "glm_ocr") == "glm_ocr"
        given = sub(hf, "text_config", "glm4v_text", "glm_ocr_text", "glm4v", "glm_ocr")
        tied = bool(take(hf, "tie_word_embeddings", bool, False) or given.get("tie_word_embeddings"))
        windows = (None,) * take(given, "num_hidden_layers", int)
        text = GlmConfig.from_hf(given, qkv_bias=not ocr, tied=tied, windows=windows)
        sections = text.rope.sections or (8, 12, 12)
        check(sum(sections) == text.rope.dim // 2, f"mrope_section {sections} must sum to {text.rope.dim // 2}")
        text = replace(text, rope=replace(text.rope, sections=sections))
        vision = GlmVitConfig.from_hf(
            sub(hf, "vision_config", "glm4v_vision", "glm_ocr_vision", "glm4v", "glm_ocr"), ocr=ocr
        )
        check(vision.out_dim == text.dim, "vision out_hidden_size differs from the text's hidden_size")
        defaults = _OCR if ocr else _GLM4V
        return cls(
            vision, text, tuple(take(hf, key, int, default) for key, default in zip(_ID_KEYS, defaults, strict=True))
        )


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.visual = GlmVit(config.vision)
        self.language_model = GlmDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self.visual(mx.array(item.arrays["patches"]), item.grid)) for item in items]


def weights(config: Config) -> Sequence[Rule]:
    """Published: model.visual.*, model.language_model.*, lm_head. MLX: vision_tower.*, language_model.model.*."""
    return (*tower_rules(), *decoder_rules(tied=config.text.tied), *glm_rules(config.text))


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    vision = config.vision
    images = VolumeStrategy(vision.patch, vision.merge, vision.frames, 112 * 112, 28 * 28 * 15000)
    videos = replace(images, max_pixels=28 * 28 * 2 * 30000)
    feature, video, *marks = config.ids
    return SecondsGridProcessing(
        feature,
        video,
        (marks[2], marks[3]),
        (marks[0], marks[1]),
        VolumeStrategy.from_files(files.image, images),
        VolumeStrategy.from_files(files.video, videos),
        table,
        TickSampling.from_files(files.video, TickSampling()),
    )


FAMILY = Family(
    name="glm4v",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("visual.*",),
)
