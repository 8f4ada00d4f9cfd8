"""InternVL 3 and its kin (arXiv:2312.14238, 2504.10479), checkpoints named -hf: InternViT on tiles, 2 x 2 patches joined into a
token, a Qwen2, Qwen3, Llama or Mistral decoder.

Reference: transformers, InternVLForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones.decoder import DecoderConfig
from ..backbones.text import text_config, text_decoder
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem, MediaKind
from ..core.weights import Drop, Flatten, Rename, Rule
from ..errors import ProcessingError
from ..fusion.model import DecoderModel, decoder_rules
from ..layers.activation import activation
from ..layers.linear import Linear
from ..layers.norm import LayerNorm
from ..processing.base import MediaOptions, Processing
from ..processing.image.canvas import CanvasStrategy
from ..processing.image.fixed import reshaped
from ..processing.video.sampling import VideoSampling
from ..towers.intern_vit import InternVit, InternVitConfig

# frames of a video where neither the caller nor the checkpoint says how many: what its authors evaluate with
_FRAMES = 8


@dataclass(frozen=True)
class Config:
    """layer: which of the tower's states is read. merge: patches a side that make one token."""

    vision: InternVitConfig
    text: DecoderConfig
    layer: int
    merge: int
    act: str
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision = InternVitConfig.from_hf(sub(hf, "vision_config", "internvl_vision"))
        expect(hf, "vision_feature_select_strategy", "default")
        layer = take(hf, "vision_feature_layer", int, -1)
        check(-vision.depth - 1 <= layer <= vision.depth, f"vision_feature_layer {layer} of {vision.depth} layers")
        act = take(hf, "projector_hidden_act", str, "gelu")
        activation(act)
        merge = int(1 / take(hf, "downsample_ratio", float, 0.5))
        check(merge >= 1 and vision.side % merge == 0, f"{vision.side} patches a side do not join {merge} by {merge}")
        tied = take(hf, "tie_word_embeddings", bool, None)
        text = text_config(sub(hf, "text_config"), tied=tied, kind="qwen2")
        return cls(vision, text, layer, merge, act, take(hf, "image_token_id", int, 151667))

    @property
    def tile_tokens(self) -> int:
        return (self.vision.side // self.merge) ** 2


class Projector(nn.Module):
    """Joins merge x merge patches; norm and two linear maps."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        joined = config.vision.dim * config.merge**2
        self.merge = config.merge
        self.layer_norm = LayerNorm(joined, 1e-5)
        self.linear_1 = Linear(joined, config.text.dim)
        self.linear_2 = Linear(config.text.dim, config.text.dim)
        self._act = activation(config.act)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, side * side, dim] -> [n * (side / merge)^2, text dim]."""
        n, length, dim = x.shape
        side, merge = int(length**0.5), self.merge
        cells = x.reshape(n, side // merge, merge, side // merge, merge, dim).transpose(0, 1, 3, 2, 4, 5)
        joined = self.layer_norm(cells.reshape(-1, merge * merge * dim))
        return self.linear_2(self._act(self.linear_1(joined)))


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = config.layer
        self.vision_tower = InternVit(config.vision)
        self.multi_modal_projector = Projector(config)
        self.language_model = text_decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        states = (self.vision_tower(mx.array(item.arrays["pixels"]))[self.layer] for item in items)
        return [Features(self.multi_modal_projector(state[:, 1:])) for state in states]


class TileProcessing(Processing):
    """Pictures are tiles between start and end marks, frames of a video one tile each. Items hold `pixels` [n, 3, H, W]."""

    unpack_names = frozenset({"pixel_values"})

    def __init__(
        self,
        image_token: int,
        tile_tokens: int,
        tiles: CanvasStrategy,
        frames: CanvasStrategy,
        sampling: VideoSampling,
        table: TokenTable | None,
    ) -> None:
        super().__init__(table)
        self.token_ids = {"image": image_token, "video": image_token}
        self.tile_tokens, self.tiles, self.frames, self.sampling = tile_tokens, tiles, frames, sampling

    def image(self, rgb: np.ndarray, options: MediaOptions) -> MediaItem:
        return self._item("image", self.tiles(reshaped(rgb, options)))

    def sample(self, total: int, rate: float, options: MediaOptions) -> np.ndarray:
        return self.sampling(total, rate, options)

    def video(self, frames: np.ndarray, timestamps: Sequence[float], options: MediaOptions) -> MediaItem:
        if len(frames) == 0:
            raise ProcessingError("a video needs at least one frame")
        return self._item("video", np.concatenate([self.frames(reshaped(frame, options)) for frame in frames]))

    def placeholder(self, kind: MediaKind) -> str:
        return "<video>" if kind == "video" else super().placeholder(kind)

    def replacement(self, item: MediaItem) -> str:
        token = self._text(self.token_ids["image"])
        if item.kind == "image":
            return f"<img>{token * item.num_tokens}</img>"
        frame = f"<img>{token * self.tile_tokens}</img>"
        return "\n".join(f"Frame{i + 1}: {frame}" for i in range(len(item.arrays["pixels"])))

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        # tiles are encoded one by one, so each may be an item, whatever it was part of
        return [self._item("image", tile[None]) for tile in arrays.get("pixel_values", ())]

    def _item(self, kind: MediaKind, pixels: np.ndarray) -> MediaItem:
        return MediaItem(kind, {"pixels": pixels}, len(pixels) * self.tile_tokens)


def weights(config: Config) -> Sequence[Rule]:
    """Published: vision_tower.encoder.layer.*, language_model.model.*; in memory under model.*."""
    return (
        Rename("model.vision_tower.*", "vision_tower.*"),
        Rename("vision_tower.encoder.layer.*", "vision_tower.layers.*"),
        Rename("vision_tower.embeddings.patch_embeddings.projection.*", "vision_tower.embeddings.projection.*"),
        Rename("model.multi_modal_projector.*", "multi_modal_projector.*"),
        # stands for patches that training hides
        Drop("vision_tower.embeddings.mask_token"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_tower.embeddings.projection.weight"),
    )


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    size = (config.vision.image, config.vision.image)
    tiles = CanvasStrategy.from_files(files.image, CanvasStrategy(size))
    frames = replace(CanvasStrategy.from_files(files.video or files.image, CanvasStrategy(size)), cuts=False)
    if {tiles.tile, frames.tile} != {size}:
        raise ProcessingError(f"preprocessor: tiles of {tiles.tile}, frames of {frames.tile}; the tower takes {size}")
    base = VideoSampling(min_frames=1, max_frames=1 << 30, spread="middles", num_frames=_FRAMES)
    sampling = VideoSampling.from_files(files.video, base)
    return TileProcessing(config.image_token, config.tile_tokens, tiles, frames, sampling, table)


FAMILY = Family(
    name="internvl",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("vision_tower.*", "multi_modal_projector.*"),
)
