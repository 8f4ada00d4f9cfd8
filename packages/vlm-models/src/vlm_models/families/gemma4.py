"""Gemma 4 (dense, mixture of experts, E-series): a tower of its own for pictures of any shape, a conformer for sounds (E-series),
one linear layer each, a Gemma 4 decoder.

Reference: transformers, Gemma4ForConditionalGeneration. Deviations: sounds beyond 30 seconds are refused, not cut; frames of
videos are resized by Pillow as pictures are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..backbones.gemma4 import Gemma4Config, Gemma4Decoder, gemma4_rules
from ..core.config import expect, sub
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Rename, Rule
from ..errors import ModalityError
from ..fusion.gemma4 import Gemma4Embedder, Gemma4Model
from ..processing.audio.mel import LogMel
from ..processing.base import Processing, pick
from ..processing.gemma4 import Gemma4Processing, Gemma4Tokens
from ..processing.image.budget import BudgetStrategy
from ..towers.gemma4_audio import Gemma4Audio, Gemma4AudioConfig, audio_rules
from ..towers.gemma4_vit import Gemma4Vision, Gemma4VisionConfig

_TOWERS = ("vision_tower", "embed_vision", "audio_tower", "embed_audio")


@dataclass(frozen=True)
class Config:
    """audio: None in models that do not hear."""

    vision: Gemma4VisionConfig
    audio: Gemma4AudioConfig | None
    text: Gemma4Config
    tokens: Gemma4Tokens

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        expect(hf, "tie_word_embeddings", True)
        text = sub(hf, "text_config")
        expect(text, "model_type", "gemma4_text")
        hears = hf.get("audio_config") is not None
        return cls(
            Gemma4VisionConfig.from_hf(sub(hf, "vision_config")),
            Gemma4AudioConfig.from_hf(sub(hf, "audio_config")) if hears else None,
            Gemma4Config.from_hf(text),
            Gemma4Tokens.from_hf(hf, hears=hears),
        )


class Model(Gemma4Model):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.media_tokens = config.tokens.reserved
        self.vision_tower = Gemma4Vision(config.vision)
        self.embed_vision = Gemma4Embedder(config.vision.dim, config.text.dim, config.vision.norm_eps)
        if config.audio is not None:
            self.audio_tower = Gemma4Audio(config.audio)
            self.embed_audio = Gemma4Embedder(config.audio.out, config.text.dim, config.audio.norm_eps)
        self.language_model = Gemma4Decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self._heard(item) if item.kind == "audio" else self._seen(item)) for item in items]

    def _seen(self, item: MediaItem) -> mx.array:
        _, rows, columns = item.grid
        rows_of = self.embed_vision(self.vision_tower(mx.array(item.arrays["pixels"]), rows, columns))
        return rows_of.reshape(-1, rows_of.shape[-1])

    def _heard(self, item: MediaItem) -> mx.array:
        if "audio_tower" not in self:
            raise ModalityError("this Gemma 4 has no audio tower and takes no audio")
        return self.embed_audio(self.audio_tower(mx.array(item.arrays["frames"])[None]))[0]


def weights(config: Config) -> Sequence[Rule]:
    """Published and saved: everything under `model.`; MLX conversions: without it, the decoder as language_model.model."""
    towers = [Rename(f"model.{name}.*", f"{name}.*") for name in _TOWERS]
    return (*towers, *gemma4_rules(config.text), *audio_rules("audio_tower"))


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    vision = config.vision
    sounds = None
    if config.audio is not None:
        # published checkpoints keep the extractor's settings in the pictures' file
        sounds = LogMel.from_files(files.audio or files.image)
    return Gemma4Processing(
        config.tokens,
        BudgetStrategy.from_files(files.image, BudgetStrategy(vision.patch, vision.pool, 280)),
        BudgetStrategy.from_files(files.video, BudgetStrategy(vision.patch, vision.pool, 70)),
        int(pick(files.video, "num_frames", 32)),
        sounds,
        blocks_seen=config.text.sees_blocks,
        table=table,
    )


FAMILY = Family(
    name="gemma4",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video", "audio"),
    keep_full=tuple(f"{name}.*" for name in _TOWERS),
)
