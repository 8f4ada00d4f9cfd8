"""Qwen2.5-VL (arXiv:2502.13923): a vision transformer with window attention at native resolution, Qwen2 decoder, M-RoPE whose
time axis runs in real seconds for video.

Reference: transformers, Qwen2_5_VLForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ..backbones.decoder import Decoder, DecoderConfig
from ..core.config import check, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Drop, Flatten, Rename, Rule
from ..errors import ProcessingError
from ..fusion.model import DecoderModel, decoder_rules
from ..fusion.names import conversion_names
from ..processing.base import Processing
from ..processing.grid import GridProcessing
from ..processing.image.dynamic import PatchStrategy
from ..processing.video.sampling import VideoSampling
from ..towers.qwen25_vit import Qwen25Vit, Qwen25VitConfig


@dataclass(frozen=True)
class Config:
    vision: Qwen25VitConfig
    text: DecoderConfig
    image_token: int
    video_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        # published files keep the text values at the top level, transformers 5 nests them
        text = sub(hf, "text_config", "qwen2_5_vl_text", "qwen2_5_vl") if hf.get("text_config") else hf
        tied = any(take(part, "tie_word_embeddings", bool, False) for part in (hf, text))
        decoder = DecoderConfig.from_hf(text, qkv_bias=True, tied=tied)
        sections = decoder.rope.sections or (16, 24, 24)
        check(sum(sections) == decoder.rope.dim // 2, f"mrope_section {sections} must sum to {decoder.rope.dim // 2}")
        config = cls(
            Qwen25VitConfig.from_hf(sub(hf, "vision_config", "qwen2_5_vl_vision", "qwen2_5_vl")),
            replace(decoder, rope=replace(decoder.rope, sections=sections)),
            take(hf, "image_token_id", int, 151655),
            take(hf, "video_token_id", int, 151656),
        )
        check(config.vision.out_dim == config.text.dim, "vision out_hidden_size differs from the text's hidden_size")
        return config


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.visual = Qwen25Vit(config.vision)
        self.language_model = Decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self.visual(mx.array(item.arrays["patches"]), item.grid)) for item in items]


class TimedGridProcessing(GridProcessing):
    """Time coordinates of a video count `rate` steps a second; those of a picture count groups of frames."""

    unpack_names = GridProcessing.unpack_names | {"second_per_grid_ts"}
    rate: float = 4

    def times(self, item: MediaItem) -> np.ndarray:
        groups = np.arange(item.grid[0])
        if item.kind == "image":
            return groups
        # the reference multiplies in float32 and cuts off
        interval = np.float32(self.rate) * np.float32(item.facts["seconds_per_patch"])
        return (groups.astype(np.float32) * interval).astype(np.int64)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[MediaItem]:
        rest = dict(arrays)
        seconds = rest.pop("second_per_grid_ts", None)
        items = super().unpack(rest)
        videos = sum(item.kind == "video" for item in items)
        if seconds is None:
            seconds = np.ones(videos)
        if len(seconds) != videos:
            raise ProcessingError(f"second_per_grid_ts has {len(seconds)} values for {videos} video(s)")
        waiting = iter(seconds.tolist())
        return [i if i.kind == "image" else replace(i, facts={"seconds_per_patch": next(waiting)}) for i in items]


def weights(config: Config) -> Sequence[Rule]:
    """Published: visual.*, model.*, lm_head. transformers 5: model.visual.*, model.language_model.*. MLX: vision_tower.*."""
    return (
        Rename("model.visual.*", "visual.*"),
        Rename("vision_tower.*", "visual.*"),
        *decoder_rules(tied=config.text.tied),
        Rename("model.*", "language_model.*"),
        Drop("*.rotary_pos_emb.inv_freq"),
        Flatten("visual.patch_embed.proj.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    return conversion_names(config.vision.channels, config.vision.frames, config.vision.patch)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    base = PatchStrategy(config.vision.patch, config.vision.merge, config.vision.frames)
    images = PatchStrategy.from_files(files.image, base)
    videos = PatchStrategy.from_files(
        files.video or files.image, replace(base, min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28)
    )
    sampling = VideoSampling.from_files(files.video, VideoSampling(spread="starts", group=videos.frames))
    result = TimedGridProcessing(config.image_token, config.video_token, images, videos, table, sampling)
    result.rate = config.vision.rate
    return result


FAMILY = Family(
    name="qwen2_5_vl",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video"),
    keep_full=("visual.*",),
    mlx_names=mlx_names,
)
