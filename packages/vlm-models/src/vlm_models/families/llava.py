"""LLaVA 1.5 (arXiv:2304.08485, 2310.03744) and checkpoints of its shape: a CLIP, SigLIP or Pixtral tower, a two-layer
projector, a Llama, Mistral or Qwen2 decoder. Pixtral 12B (arXiv:2410.07073) is LLaVA with Pixtral's tower.

Reference: transformers, LlavaForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..backbones.decoder import DecoderConfig
from ..backbones.text import text_config, text_decoder
from ..core.config import expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Flatten, Rename, Rule
from ..fusion.model import DecoderModel, conversion_names, decoder_rules, tower_rules
from ..fusion.projectors import TwoLayerProjector, feature_layers, select_states
from ..layers.activation import activation
from ..processing.base import Processing
from ..processing.image.fixed import FixedStrategy
from ..processing.image.longest_edge import LongestEdgeStrategy
from ..processing.image.pixels import HALF_MEAN, HALF_STD, Normalize
from ..processing.pictures import FixedPictures, RowPictures
from ..towers.picture import TowerConfig, tower, tower_config
from ..towers.pixtral_vit import PixtralVitConfig
from ..towers.siglip import SiglipConfig

# published LLaVA 1.5 gives only what differs from this tower
_TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class Config:
    """layers: states of the tower that are joined; drop_first: leave out the tower's first token."""

    vision: TowerConfig
    text: DecoderConfig
    layers: tuple[int, ...]
    drop_first: bool
    act: str
    bias: bool
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        hf, named = dict(hf), hf.get("model_type")
        vision = dict(sub(hf, "vision_config"))
        if vision.get("model_type", "clip_vision_model") == "clip_vision_model":
            vision = _TOWER | vision
        tower = tower_config(vision)
        # conversions that name Pixtral leave out what LLaVA would have to be told
        hf = ({"vision_feature_select_strategy": "full", "vision_feature_layer": -1} if named == "pixtral" else {}) | hf
        strategy = expect(hf, "vision_feature_select_strategy", "default", "full")
        act = take(hf, "projector_hidden_act", str, "gelu")
        activation(act)
        return cls(
            tower,
            # either part of the file may say that the embeddings are tied
            text_config(
                sub(hf, "text_config"), tied=take(hf, "tie_word_embeddings", bool, False) or None, kind="llama"
            ),
            feature_layers(take(hf, "vision_feature_layer", (int, list), None), tower.depth),
            strategy == "default",
            act,
            take(hf, "multimodal_projector_bias", bool, True),
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 32000)),
        )


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.vision.dim * len(config.layers)
        self.vision_tower = tower(config.vision)
        self.multi_modal_projector = TwoLayerProjector(width, config.text.dim, config.act, bias=config.bias)
        self.language_model = text_decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [self._encode(mx.array(item.arrays["pixels"])) for item in items]

    def _encode(self, pixels: mx.array) -> Features:
        states = self.vision_tower(pixels)
        chosen = select_states(states, self.config.layers, drop_first=self.config.drop_first)
        return Features(self.multi_modal_projector(chosen)[0])


def weights(config: Config) -> Sequence[Rule]:
    """Published: vision_tower.vision_model.*, language_model.model.*; transformers 5 without the inner vision_model.; in
    memory and in some conversions: model.*, lm_head.*."""
    patches = "patch_conv" if isinstance(config.vision, PixtralVitConfig) else "embeddings.patch_embedding"
    return (
        *tower_rules(),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        *decoder_rules(tied=config.text.tied),
        Flatten(f"vision_tower.{patches}.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    patches = "patch_conv" if isinstance(config.vision, PixtralVitConfig) else "embeddings.patch_embedding"
    return conversion_names(config.vision.channels, config.vision.patch, patches=patches)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    vision = config.vision
    if isinstance(vision, PixtralVitConfig):
        rows = LongestEdgeStrategy.from_files(files.image, LongestEdgeStrategy((vision.image,) * 2, vision.patch))
        return RowPictures(config.image_token, rows, files.processor, table)
    size = (vision.image, vision.image)
    if isinstance(vision, SiglipConfig):
        base = FixedStrategy(size=size, normalize=Normalize(mean=HALF_MEAN, std=HALF_STD))
    else:
        base = FixedStrategy(shortest=vision.image, crop=size)
    strategy = FixedStrategy.from_files(files.image, base)
    return FixedPictures(config.image_token, strategy, vision.num_tokens - config.drop_first, table)


FAMILY = Family(
    name="llava",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    chat_template=TEMPLATE,
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
    mlx_names=mlx_names,
)
