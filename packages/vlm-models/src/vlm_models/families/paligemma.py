"""PaliGemma 1 and 2 (arXiv:2407.07726, 2412.03555): SigLIP, one linear layer, a Gemma or Gemma 2 decoder whose whole prompt sees
itself in both directions.

Reference: transformers, PaliGemmaForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backbones.gemma import GemmaConfig, GemmaDecoder
from ..core.config import sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Flatten, Rename, Rule
from ..fusion.gemma import GemmaModel
from ..fusion.model import decoder_rules, tower_rules
from ..layers.linear import Linear
from ..processing.base import Processing
from ..processing.gemma import PrefixPictures
from ..processing.image.fixed import FixedStrategy
from ..processing.image.pixels import HALF_MEAN, HALF_STD, Normalize
from ..towers.siglip import Siglip, SiglipConfig

# the reference's processor: pictures, <bos>, the prompt, a line end; roles are unknown to these models
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is not string %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}\n{% endfor %}"
)


@dataclass(frozen=True)
class Config:
    vision: SiglipConfig
    text: GemmaConfig
    image_token: int
    begin: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        tied = take(hf, "tie_word_embeddings", bool, True)
        return cls(
            SiglipConfig.from_hf(sub(hf, "vision_config", "siglip_vision_model")),
            GemmaConfig.from_hf(sub(hf, "text_config"), "gemma", tied=tied, blocks_beyond_window=True),
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 256000)),
            take(hf, "bos_token_id", int, take(sub(hf, "text_config"), "bos_token_id", int, 2)),
        )


class Projector(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.linear = Linear(config.vision.dim, config.text.dim)


class Model(GemmaModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_tower = Siglip(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = GemmaDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [
            Features(self.multi_modal_projector.linear(self.vision_tower.last(mx.array(item.arrays["pixels"])))[0])
            for item in items
        ]


def weights(config: Config) -> Sequence[Rule]:
    """Published: vision_tower.vision_model.*, language_model.model.*; transformers 5 without the inner vision_model."""
    return (
        *tower_rules(),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_tower.embeddings.patch_embedding.weight"),
    )


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    size = (config.vision.image, config.vision.image)
    base = FixedStrategy(size=size, normalize=Normalize(mean=HALF_MEAN, std=HALF_STD))
    strategy = FixedStrategy.from_files(files.image, base)
    return PrefixPictures(config.image_token, config.begin, strategy, config.vision.num_tokens, table)


FAMILY = Family(
    name="paligemma",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    chat_template=TEMPLATE,
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
)
