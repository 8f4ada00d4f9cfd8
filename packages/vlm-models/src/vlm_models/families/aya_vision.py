"""Aya Vision (arXiv:2505.08751): pictures on a canvas of tiles, a SigLIP tower, a pixel shuffle and a gated projector, Cohere's
second decoder.

Reference: transformers, AyaVisionForConditionalGeneration, which leaves out the decoder's logit_scale here; so do we.
Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vlm_kernels import swiglu

from ..backbones.cohere import CohereConfig, CohereDecoder
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem, MediaKind
from ..core.weights import Flatten, Rename, Rule
from ..fusion.model import DecoderModel, conversion_names, decoder_rules, tower_rules
from ..fusion.projectors import feature_layers
from ..layers.linear import Linear
from ..layers.norm import LayerNorm
from ..layers.patches import join_blocks
from ..processing.base import MediaOptions, Processing, pick
from ..processing.image.canvas import CanvasStrategy
from ..processing.image.fixed import reshaped
from ..towers.siglip import Siglip, SiglipConfig

# what the class of transformers assumes where a published file says nothing
_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
    "num_hidden_layers": 26,
    "num_attention_heads": 14,
}


@dataclass(frozen=True)
class Config:
    """layer: state of the tower that is read. merge: patches a side of one token. hidden: width inside the projector."""

    vision: SiglipConfig
    text: CohereConfig
    layer: int
    merge: int
    hidden: int
    norm_eps: float
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        given, text = sub(hf, "vision_config"), sub(hf, "text_config")
        expect(given, "model_type", "siglip_vision_model")
        expect(text, "model_type", "cohere2")
        expect(hf, "vision_feature_select_strategy", "full")
        vision = SiglipConfig.from_hf(given if "hidden_size" in given else _TOWER | dict(given))
        layers = feature_layers(take(hf, "vision_feature_layer", (int, list), -1), vision.depth)
        check(len(layers) == 1, "vision_feature_layer must be one layer")
        merge = take(hf, "downsample_factor", int, 2)
        check(vision.side % merge == 0, f"downsample_factor {merge} does not divide the tower's {vision.side} patches")
        decoder = CohereConfig.from_hf(text, tied=take(hf, "tie_word_embeddings", bool, True))
        hidden = take(hf, "alignment_intermediate_size", int, decoder.dim)
        check(hidden % 2 == 0, "alignment_intermediate_size must be even")
        return cls(
            vision,
            replace(decoder, logit_scale=1.0),
            layers[0],
            merge,
            hidden,
            take(hf, "adapter_layer_norm_eps", float, 1e-6),
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 255036)),
        )


class Projector(nn.Module):
    """Blocks of patches become one token each, then norm and a gated perceptron whose second half is the gate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.merge = config.merge
        width = config.vision.dim * config.merge**2
        self.layernorm = LayerNorm(width, config.norm_eps)
        self.linear_1 = Linear(width, config.hidden)
        self.linear_2 = Linear(config.hidden // 2, config.text.dim)

    def __call__(self, patches: mx.array) -> mx.array:
        up, gate = mx.split(self.linear_1(self.layernorm(join_blocks(patches, self.merge))), 2, axis=-1)
        return self.linear_2(swiglu(gate, up))


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = Siglip(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = CohereDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [self._encode(mx.array(item.arrays["pixels"])) for item in items]

    def _encode(self, pixels: mx.array) -> Features:
        tokens = self.multi_modal_projector(self.vision_tower(pixels)[self.config.layer])
        return Features(tokens.reshape(-1, tokens.shape[-1]))


def weights(config: Config) -> Sequence[Rule]:
    """As LLaVA."""
    return (
        *tower_rules(),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_tower.embeddings.patch_embedding.weight"),
    )


class TilePictures(Processing):
    """Numbered tiles, the whole picture last, between start and end marks. Items hold `pixels` [tiles, 3, H, W]. Unpacked arrays
    do not say which tiles make a picture: there every tile is an item."""

    unpack_names = frozenset({"pixel_values"})

    def __init__(
        self,
        image_token: int,
        per_tile: int,
        strategy: CanvasStrategy,
        processor: Mapping[str, Any],
        table: TokenTable | None,
    ) -> None:
        """processor: processor_config.json, which may name the marks."""
        super().__init__(table)
        self.token_ids: dict[MediaKind, int] = {"image": image_token}
        self.per_tile, self.strategy, self.marks = per_tile, strategy, processor

    def placeholder(self, kind: MediaKind) -> str:
        return pick(self.marks, "image_token", "<image>") if kind == "image" else super().placeholder(kind)

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return self._item(self.strategy(reshaped(rgb, options)))

    def replacement(self, item: MediaItem) -> str:
        run = self._text(self.token_ids["image"]) * self.per_tile
        name = pick(self.marks, "tile_token", "TILE")
        tiles = [f"{name}_{index}{run}" for index in range(1, len(item.arrays["pixels"]))]
        whole = pick(self.marks, "tile_global_token", "TILE_GLOBAL") + run
        start = pick(self.marks, "start_of_img_token", "<|START_OF_IMG|>")
        return "".join([start, *tiles, whole, pick(self.marks, "end_of_img_token", "<|END_OF_IMG|>")])

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        return [self._item(tile[None]) for tile in arrays.get("pixel_values", ())]

    def _item(self, pixels: np.ndarray) -> MediaItem:
        return MediaItem("image", {"pixels": pixels}, len(pixels) * self.per_tile)


def mlx_names(config: Config) -> Sequence[Rule]:
    return conversion_names(config.vision.channels, config.vision.patch)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    side = config.vision.image
    strategy = CanvasStrategy.from_files(files.image, CanvasStrategy((side, side), cuts=True))
    # the reference's processor cuts pictures whatever the file says
    per_tile = (config.vision.side // config.merge) ** 2
    return TilePictures(config.image_token, per_tile, replace(strategy, cuts=True), files.processor, table)


FAMILY = Family(
    name="aya_vision",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
    mlx_names=mlx_names,
)
