"""LLaVA-NeXT 1.6 (Mistral, Vicuna, 34b) and Granite Vision 3.2 (arXiv:2502.09927): LLaVA on a thumbnail and tiles.

Granite Vision joins several layers of a SigLIP tower in front of a Granite decoder. Reference: transformers,
LlavaNextForConditionalGeneration, which leaves out Granite's division of the logits here; so do we. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..backbones.decoder import DecoderConfig
from ..backbones.text import text_config, text_decoder
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Flatten, Rename, Rule
from ..fusion.anyres import pack_tiles
from ..fusion.model import DecoderModel, conversion_names, decoder_rules, tower_rules
from ..fusion.projectors import TwoLayerProjector, feature_layers, select_states
from ..layers.activation import activation
from ..processing.base import Processing
from ..processing.image.dynamic import CLIP_NORMALIZE
from ..processing.image.fixed import FixedStrategy
from ..processing.image.tiled import Sizes, TiledStrategy
from ..processing.tiles import TiledPictures
from ..towers.clip import ClipConfig
from ..towers.picture import tower, tower_config
from ..towers.siglip import SiglipConfig

# what the class of transformers assumes where a published file says nothing
_TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_CHOICES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True)
class Config:
    """layers: states of the tower that are joined; drop_first: leave out the tower's first token."""

    vision: ClipConfig | SiglipConfig
    text: DecoderConfig
    layers: tuple[int, ...]
    drop_first: bool
    act: str
    bias: bool
    image_token: int
    choices: Sizes

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision = {"model_type": "clip_vision_model"} | dict(sub(hf, "vision_config"))
        if vision["model_type"] == "clip_vision_model":
            vision = _TOWER | vision
        expect(vision, "model_type", "clip_vision_model", "siglip_vision_model")
        tower = tower_config(vision)
        assert isinstance(tower, ClipConfig | SiglipConfig)
        drop_first = expect(hf, "vision_feature_select_strategy", "default", "full") == "default"
        act = take(hf, "projector_hidden_act", str, "gelu")
        activation(act)
        text = text_config(sub(hf, "text_config"), tied=take(hf, "tie_word_embeddings", bool, False), kind="llama")
        side = tower.image // tower.patch
        check(
            tower.num_tokens - drop_first == side**2,
            "vision_feature_select_strategy does not leave a square of patches",
        )
        return cls(
            tower,
            text,
            feature_layers(take(hf, "vision_feature_layer", (int, list), None), tower.depth),
            drop_first,
            act,
            take(hf, "multimodal_projector_bias", bool, True),
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 32000)),
            tuple((h, w) for h, w in take(hf, "image_grid_pinpoints", list, list(_CHOICES))),
        )


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.vision.dim * len(config.layers)
        self.vision_tower = tower(config.vision)
        self.multi_modal_projector = TwoLayerProjector(width, config.text.dim, config.act, bias=config.bias)
        self.image_newline = mx.zeros((config.text.dim,))
        self.language_model = text_decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(pack_tiles(self._project(item), item, self.image_newline)) for item in items]

    def _project(self, item: MediaItem) -> mx.array:
        states = self.vision_tower(mx.array(item.arrays["pixels"]))
        return self.multi_modal_projector(select_states(states, self.config.layers, drop_first=self.config.drop_first))


def weights(config: Config) -> Sequence[Rule]:
    """As LLaVA, and image_newline at the top."""
    return (
        *tower_rules(),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        Rename("model.image_newline", "image_newline"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_tower.embeddings.patch_embedding.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    return conversion_names(config.vision.channels, config.vision.patch)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    side = config.vision.image
    each = FixedStrategy(shortest=side, crop=(side, side), normalize=CLIP_NORMALIZE)
    default = TiledStrategy(config.choices, side, side // config.vision.patch, each)
    return TiledPictures(config.image_token, TiledStrategy.from_files(files.image, default), table)


FAMILY = Family(
    name="llava_next",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    keep_full=("vision_tower.*", "multi_modal_projector.*", "image_newline"),
    mlx_names=mlx_names,
)
