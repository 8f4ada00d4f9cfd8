"""LLaVA-OneVision (arXiv:2408.03326): LLaVA-NeXT's tiles with large maps shrunk, and videos with pooled frames; SigLIP, Qwen2.

Reference: transformers, LlavaOnevisionForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

import math
import re
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
from ..layers.resample import resample_bilinear
from ..processing.base import Processing
from ..processing.image.dynamic import CLIP_NORMALIZE
from ..processing.image.fixed import FixedStrategy
from ..processing.image.tiled import Sizes, TiledStrategy
from ..processing.tiles import TiledVideo
from ..towers.siglip import Siglip, SiglipConfig

# what the class of transformers assumes where a published file says nothing
_TOWER = {"hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14, "image_size": 384, "num_hidden_layers": 26}
_CHOICES = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))


@dataclass(frozen=True)
class Config:
    """layers: states of the tower that are joined. max_tiles: maps of more features than that many tiles are shrunk."""

    vision: SiglipConfig
    text: DecoderConfig
    layers: tuple[int, ...]
    act: str
    bias: bool
    image_token: int
    video_token: int
    choices: Sizes
    max_tiles: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        given = sub(hf, "vision_config")
        expect(given, "model_type", "siglip_vision_model")
        vision = SiglipConfig.from_hf(given if "hidden_size" in given else _TOWER | dict(given))
        expect(hf, "vision_feature_select_strategy", "full")
        act = take(hf, "projector_hidden_act", str, "gelu")
        activation(act)
        limit = re.fullmatch(r"anyres_max_(\d+)", take(hf, "vision_aspect_ratio", str, "anyres_max_9"))
        check(limit is not None, "vision_aspect_ratio must be anyres_max_N")
        assert limit is not None
        return cls(
            vision,
            # either part of the file may say that the embeddings are tied
            text_config(
                sub(hf, "text_config"), tied=take(hf, "tie_word_embeddings", bool, False) or None, kind="qwen2"
            ),
            feature_layers(take(hf, "vision_feature_layer", (int, list), -1), vision.depth),
            act,
            take(hf, "multimodal_projector_bias", bool, True),
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 151646)),
            take(hf, "video_token_index", int, take(hf, "video_token_id", int, 151647)),
            tuple((h, w) for h, w in take(hf, "image_grid_pinpoints", list, list(_CHOICES))),
            int(limit.group(1)),
        )


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.vision.dim * len(config.layers)
        self.vision_tower = Siglip(config.vision)
        self.multi_modal_projector = TwoLayerProjector(width, config.text.dim, config.act, bias=config.bias)
        self.image_newline = mx.zeros((config.text.dim,))
        self.language_model = text_decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self._encode(item)) for item in items]

    def _encode(self, item: MediaItem) -> mx.array:
        states = self.vision_tower(mx.array(item.arrays["pixels"]))
        features = self.multi_modal_projector(select_states(states, self.config.layers, drop_first=False))
        if item.kind == "image":
            return pack_tiles(features, item, self.image_newline)
        frames, side = features.shape[0], self.config.vision.side
        half = math.ceil(side / 2)
        pooled = resample_bilinear(features.reshape(frames, side, side, -1), half, half)
        return mx.concatenate([pooled.reshape(frames * half * half, -1), self.image_newline[None].astype(pooled.dtype)])


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
    size = (config.vision.image, config.vision.image)
    each = FixedStrategy(size=size, normalize=CLIP_NORMALIZE)
    default = TiledStrategy(config.choices, size[0], config.vision.side, each, config.max_tiles)
    tiles = TiledStrategy.from_files(files.image, default)
    frames = FixedStrategy.from_files(files.video, each) if files.video else tiles.each
    return TiledVideo(config.image_token, config.video_token, tiles, frames, table)


FAMILY = Family(
    name="llava_onevision",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("vision_tower.*", "multi_modal_projector.*", "image_newline"),
    mlx_names=mlx_names,
)
