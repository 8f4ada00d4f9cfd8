"""Granite 4.0 Vision: LLaVA-NeXT's tiles; several layers of the tower, each shrunk by a windowed Q-Former of its own, are added
to the image tokens in front of several layers of a Granite decoder.

Reference: transformers, Granite4VisionForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones.granite import GraniteConfig, GraniteDecoder
from ..backbones.text import text_config
from ..core.attention import Attention
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, Inputs, MediaItem, Output, Span
from ..core.model import Select, selected
from ..core.weights import Flatten, Rename, Rule
from ..fusion.anyres import pack_tiles
from ..fusion.model import DecoderModel, conversion_names, decoder_rules, tower_rules
from ..fusion.projectors import feature_layers
from ..fusion.qformer import QFormer, QFormerConfig
from ..fusion.scatter import scatter_level
from ..layers.linear import Linear
from ..layers.norm import LayerNorm
from ..layers.resample import resample_area
from ..processing.base import Processing
from ..processing.image.dynamic import CLIP_NORMALIZE
from ..processing.image.fixed import FixedStrategy
from ..processing.image.tiled import Sizes, TiledStrategy
from ..processing.tiles import TiledPictures
from ..towers.clip import ClipConfig
from ..towers.picture import tower, tower_config
from ..towers.siglip import SiglipConfig

_CHOICES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
_QFORMER = {"num_hidden_layers": 1, "cross_attention_frequency": 1}
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Config:
    """levels: (state of the tower, layer of the decoder) of the means; corners: the same of one corner of each 2 x 2 block.
    query, window: tokens a side that a window of so many patches a side becomes. drop_first: leave out the class token."""

    vision: ClipConfig | SiglipConfig
    text: GraniteConfig
    qformer: QFormerConfig
    levels: tuple[tuple[int, int], ...]
    corners: tuple[tuple[int, int], ...]
    query: int
    window: int
    drop_first: bool
    image_token: int
    choices: Sizes

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        given = sub(hf, "vision_config")
        expect(given, "model_type", "clip_vision_model", "siglip_vision_model")
        vision = tower_config(given, kind="clip_vision_model")
        assert isinstance(vision, ClipConfig | SiglipConfig)
        text = text_config(sub(hf, "text_config"), tied=take(hf, "tie_word_embeddings", bool, False), kind="granite")
        check(isinstance(text, GraniteConfig), "text_config must be of a Granite decoder")
        assert isinstance(text, GraniteConfig)
        rate = re.fullmatch(r"(\d+)/(\d+)", take(hf, "downsample_rate", str))
        check(rate is not None, "downsample_rate must be a fraction such as 1/4")
        assert rate is not None
        query, window, side = int(rate.group(1)), int(rate.group(2)), vision.image // vision.patch
        check(side % window == 0 and side % 2 == 0, f"windows of {window} patches do not divide {side}")
        check(2 * query == window, f"downsample_rate {rate.group(0)}: the corners of 2 x 2 blocks need one half")
        drop_first = expect(hf, "vision_feature_select_strategy", "default", "full") == "default"
        check(vision.num_tokens - drop_first == side**2, "vision_feature_select_strategy leaves no square of patches")
        levels = tuple((int(state), int(layer)) for state, layer in take(hf, "deepstack_layer_map", list))
        spatial = feature_layers(take(hf, "spatial_vision_layer", int, -1), vision.depth)[0]
        corners = tuple((spatial, int(at)) for at in take(hf, "spatial_target_layers", list, [12, 15, 18, 21]))
        check(len(corners) <= 4, "spatial_target_layers names more than four layers")
        for state, layer in (*levels, *corners):
            feature_layers(state, vision.depth)
            check(0 <= layer < text.num_layers, f"features for layer {layer} of a decoder of {text.num_layers}")
        return cls(
            vision,
            text,
            QFormerConfig.from_hf(hf.get("qformer_config") or _QFORMER, dim=vision.dim, num_heads=vision.dim // 64),
            levels,
            corners,
            query,
            window,
            drop_first,
            take(hf, "image_token_index", int, take(hf, "image_token_id", int, 32000)),
            tuple((h, w) for h, w in take(hf, "image_grid_pinpoints", list, list(_CHOICES))),
        )


class Shrinker(nn.Module):
    """Windows of patches become smaller windows of queries that start from means, or from one corner of each 2 x 2 block."""

    def __init__(self, config: Config, corner: int | None) -> None:
        super().__init__()
        dim, self.corner = config.vision.dim, corner
        self.sides = (config.query, config.window)
        self.qformer = QFormer(config.qformer)
        self.norm = LayerNorm(dim, 1e-6)
        self.query = mx.zeros((1, config.query**2, dim))
        self.image_positions = mx.zeros((1, config.window**2, dim))
        self.out_linear = Linear(dim, config.text.dim)

    def __call__(self, patches: mx.array) -> mx.array:
        """[n, side * side, dim] -> [n, (side * query / window)^2, text dim]."""
        n, count, dim = patches.shape
        query, window = self.sides
        side = round(count**0.5)
        grid = self.norm(patches).reshape(n, side, side, dim)
        if self.corner is None:
            small = resample_area(grid, side * query // window, side * query // window)
        else:
            row, column = _CORNERS[self.corner]
            small = grid[:, row::2, column::2]
        queries = self.query + into_windows(small, query)
        windows = self.qformer(queries, into_windows(grid, window) + self.image_positions)
        across = side // window
        cells = windows.reshape(n, across, across, query, query, dim).transpose(0, 1, 3, 2, 4, 5)
        return self.out_linear(cells.reshape(n, (across * query) ** 2, dim))


def into_windows(grid: mx.array, size: int) -> mx.array:
    """[n, H, W, dim] -> [n * windows, size * size, dim], windows row by row."""
    n, height, width, dim = grid.shape
    cells = grid.reshape(n, height // size, size, width // size, size, dim).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(-1, size * size, dim)


class LevelDecoder(GraniteDecoder):
    """Adds `inputs.per_token[str(layer)]` in front of layers."""

    def __call__(
        self,
        inputs: Inputs,
        positions: mx.array,
        attention: Attention,
        cache: Sequence[Any],
        *,
        select: Select = None,
        residuals: Sequence[mx.array] = (),
    ) -> Output:
        x, tables = inputs.embeds * self.factors[0], self._rope(positions, plan=attention)
        for index, (layer, layer_cache) in enumerate(zip(self.layers, cache, strict=True)):
            if str(index) in inputs.per_token:
                x = x + inputs.per_token[str(index)]
            x = layer(x, tables, attention, layer_cache)
        hidden = self.norm(x)
        return Output(self.head(selected(hidden, select)), hidden)


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = tower(config.vision)
        self.layerwise_projectors = [Shrinker(config, None) for _ in config.levels]
        self.spatial_projectors = [Shrinker(config, corner) for corner in range(4)]
        self.image_newline = mx.zeros((config.text.dim,))
        self.language_model = LevelDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [self._encode(item) for item in items]

    def _encode(self, item: MediaItem) -> Features:
        """Levels are named by the layer of the decoder that they are added in front of; where two meet, the later counts."""
        config, levels = self.config, {}
        states = self.vision_tower(mx.array(item.arrays["pixels"]))
        places = [*zip(config.levels, self.layerwise_projectors, strict=True)]
        places += zip(config.corners, self.spatial_projectors, strict=False)
        for (state, layer), project in places:
            patches = states[state][:, 1:] if config.drop_first else states[state]
            levels[str(layer)] = pack_tiles(project(patches), item, self.image_newline)
        first = next(iter(levels))
        return Features(levels[first], levels)

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        """Image tokens start from zero; all they hold comes in on the way."""
        embeds = self.language_model.embed_tokens(tokens)
        if not spans:
            return Inputs(embeds)
        is_text = np.ones((1, tokens.shape[1], 1), np.float32)
        for span in spans:
            is_text[:, span.start : span.stop] = 0
        embeds = embeds * mx.array(is_text).astype(embeds.dtype)
        names = features[spans[0].item].levels
        return Inputs(embeds, {name: scatter_level(embeds, features, spans, name) for name in names})


def weights(config: Config) -> Sequence[Rule]:
    """As LLaVA-NeXT, with two lists of projectors."""
    return (
        *tower_rules(),
        Rename("model.layerwise_projectors.*", "layerwise_projectors.*"),
        Rename("model.spatial_projectors.*", "spatial_projectors.*"),
        Rename("model.image_newline", "image_newline"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_tower.embeddings.patch_embedding.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    return conversion_names(config.vision.channels, config.vision.patch)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    side = config.vision.image
    each = FixedStrategy(shortest=side, crop=(side, side), normalize=CLIP_NORMALIZE)
    patches = side // config.vision.patch * config.query // config.window
    strategy = TiledStrategy.from_files(files.image, TiledStrategy(config.choices, side, patches, each))
    return TiledPictures(config.image_token, strategy, table)


FAMILY = Family(
    name="granite4_vision",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    keep_full=("vision_tower.*", "layerwise_projectors.*", "spatial_projectors.*", "image_newline"),
    mlx_names=mlx_names,
)
