"""Idefics3 (arXiv:2408.12637) and SmolVLM (arXiv:2504.05299): pictures cut into tiles, a SigLIP tower, a pixel shuffle that joins
neighbouring patches, one matrix, a Llama decoder. SmolVLM reads videos as timed frames.

Reference: transformers, Idefics3ForConditionalGeneration and SmolVLMForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backbones.decoder import DecoderConfig
from ..backbones.text import text_config, text_decoder
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Flatten, Rename, Rule, Unflatten
from ..fusion.model import DecoderModel, decoder_rules, tower_rules
from ..layers.linear import Linear
from ..layers.patches import join_blocks
from ..processing.base import Processing
from ..processing.idefics import SplitPictures
from ..processing.image.splits import SplitStrategy
from ..processing.video.told import ToldFrames
from ..towers.siglip import Siglip, SiglipConfig

# SmolVLM2's published templates name pictures alone
VIDEO_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'] is string %}: {{ message['content'] }}{% else %}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] in ('image', 'video') %}<{{ part['type'] }}>"
    "{% endif %}{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class Config:
    """scale: patches a side of one token. videos: whether clips are read (SmolVLM)."""

    vision: SiglipConfig
    text: DecoderConfig
    scale: int
    image_token: int
    videos: bool

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision = SiglipConfig.from_hf(
            sub(hf, "vision_config", "idefics3_vision", "idefics3", "smolvlm_vision", "smolvlm"),
            hidden_size=1152,
            num_attention_heads=16,
            patch_size=32,
        )
        scale = take(hf, "scale_factor", int, 2)
        check(
            vision.side % scale == 0, f"scale_factor {scale} does not divide the tower's {vision.side} patches a side"
        )
        return cls(
            vision,
            text_config(sub(hf, "text_config"), tied=take(hf, "tie_word_embeddings", bool, False), kind="llama"),
            scale,
            take(hf, "image_token_id", int, 128257),
            expect(hf, "model_type", "idefics3", "smolvlm") == "smolvlm",
        )


class Projection(nn.Module):
    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.proj = Linear(in_size, out_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(x)


class Connector(nn.Module):
    """Blocks of scale x scale patches become one token each, then one matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.scale = config.scale
        self.modality_projection = Projection(config.vision.dim * config.scale**2, config.text.dim)

    def __call__(self, patches: mx.array) -> mx.array:
        """[n, side * side, dim] -> [n * (side / scale)^2, text dim]."""
        joined = self.modality_projection(join_blocks(patches, self.scale))
        return joined.reshape(-1, joined.shape[-1])


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_model = Siglip(config.vision)
        self.connector = Connector(config)
        self.language_model = text_decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self.connector(self.vision_model.bucketed(mx.array(item.arrays["pixels"])))) for item in items]


def weights(config: Config) -> Sequence[Rule]:
    """Published and transformers 5: model.vision_model.*, model.connector.*, model.text_model.*, lm_head. MLX: without model."""
    return (
        *tower_rules("vision_model"),
        Rename("model.connector.*", "connector.*"),
        Rename("model.text_model.*", "language_model.*"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_model.embeddings.patch_embedding.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    """The text side keeps its names; the patch convolution is written [out, patch, patch, channels]."""
    patch = config.vision.patch
    return (Unflatten("vision_model.embeddings.patch_embedding.weight", (config.vision.channels, patch, patch)),)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    strategy = SplitStrategy.from_files(files.image, config.vision.image)
    span = config.vision.patch * config.scale
    if config.videos:
        return ToldFrames(config.image_token, strategy, span, files.video, files.image, table)
    return SplitPictures(config.image_token, strategy, span, table)


FAMILY = Family(
    name="idefics3",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("vision_model.*", "connector.*"),
    video_template=VIDEO_TEMPLATE,
    mlx_names=mlx_names,
)
