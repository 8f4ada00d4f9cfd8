"""Mistral Small 3.1 and Ministral 3: Pixtral's tower, a learnt merger of neighbouring patches, a Mistral or Ministral 3 decoder.

Reference: transformers, Mistral3ForConditionalGeneration. Deviations: none.
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
from ..core.weights import Flatten, Rename, Rule
from ..fusion.model import DecoderModel, conversion_names, decoder_rules, tower_rules
from ..fusion.projectors import TwoLayerProjector, feature_layers
from ..layers.activation import activation
from ..layers.linear import Linear
from ..layers.norm import RMSNorm
from ..processing.base import Processing
from ..processing.image.longest_edge import LongestEdgeStrategy
from ..processing.pictures import RowPictures
from ..towers.pixtral_vit import PixtralVit, PixtralVitConfig

# what the class of transformers assumes where a published file says nothing
_TOWER = {"patch_size": 14, "image_size": 1540}
_TEXT = {
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "max_position_embeddings": 131072,
    "num_hidden_layers": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e9,
    "sliding_window": None,
    "vocab_size": 131072,
}


@dataclass(frozen=True)
class Config:
    """layer: state of the tower that is read; merge: patches a side of one token."""

    vision: PixtralVitConfig
    text: DecoderConfig
    layer: int
    merge: int
    act: str
    bias: bool
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision = _TOWER | dict(sub(hf, "vision_config"))
        expect(vision, "model_type", "pixtral")
        tower = PixtralVitConfig.from_hf(vision)
        text = dict(sub(hf, "text_config"))
        if text.get("model_type", "mistral") == "mistral" and "hidden_size" not in text:
            text = _TEXT | text
        layers = feature_layers(take(hf, "vision_feature_layer", (int, list), -1), tower.depth)
        check(len(layers) == 1, "vision_feature_layer must be one layer")
        act = take(hf, "projector_hidden_act", str, "gelu")
        activation(act)
        return cls(
            tower,
            text_config(text, tied=take(hf, "tie_word_embeddings", bool, None), kind="mistral"),
            layers[0],
            take(hf, "spatial_merge_size", int, 2),
            act,
            take(hf, "multimodal_projector_bias", bool, False),
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 10)),
        )


class PatchMerger(nn.Module):
    """merge x merge neighbouring patches become one, by a matrix."""

    def __init__(self, dim: int, merge: int) -> None:
        super().__init__()
        self.merge = merge
        self.merging_layer = Linear(dim * merge**2, dim, bias=False)

    def __call__(self, x: mx.array, rows: int, columns: int) -> mx.array:
        """[rows * columns * merge^2, dim] -> [rows * columns, dim]; features of a cell are channel-first."""
        merge, dim = self.merge, x.shape[-1]
        cells = x.reshape(rows, merge, columns, merge, dim).transpose(0, 2, 4, 1, 3)
        return self.merging_layer(cells.reshape(rows * columns, dim * merge**2))


class Projector(TwoLayerProjector):
    def __init__(self, config: Config) -> None:
        super().__init__(config.vision.dim, config.text.dim, config.act, bias=config.bias)
        self.norm = RMSNorm(config.vision.dim, config.text.norm_eps)
        self.patch_merger = PatchMerger(config.vision.dim, config.merge)


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = PixtralVit(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = text_decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [self._encode(item) for item in items]

    def _encode(self, item: MediaItem) -> Features:
        project, (rows, columns) = self.multi_modal_projector, item.grid
        patches = self.vision_tower(mx.array(item.arrays["pixels"]))[self.config.layer][0]
        return Features(project(project.patch_merger(project.norm(patches), rows, columns)))


def weights(config: Config) -> Sequence[Rule]:
    """As LLaVA with Pixtral's tower."""
    return (
        *tower_rules(),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_tower.patch_conv.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    return conversion_names(config.vision.channels, config.vision.patch, patches="patch_conv")


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    vision = config.vision
    default = LongestEdgeStrategy((vision.image, vision.image), vision.patch * config.merge)
    return RowPictures(config.image_token, LongestEdgeStrategy.from_files(files.image, default), files.processor, table)


FAMILY = Family(
    name="mistral3",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
    mlx_names=mlx_names,
)
