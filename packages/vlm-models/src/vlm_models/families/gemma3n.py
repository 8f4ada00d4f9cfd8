"""Gemma 3n (E2B, E4B): MobileNet V5 for pictures of one size, a conformer for sounds, tables of tokens that belong to either, a
decoder with embeddings per layer and alternating updates.

Reference: transformers, Gemma3nForConditionalGeneration. Deviations: sounds beyond 30 seconds are refused, not cut; a sound is
heard alone, where the reference fills up the shorter of several with silence before it takes their frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import rms_norm

from ..backbones.gemma3n import Gemma3nConfig, Gemma3nDecoder
from ..backbones.gemma4 import PER_LAYER, gemma4_rules
from ..core.config import check, expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, Inputs, MediaItem, MediaKind, Span
from ..core.weights import Rename, Rule
from ..fusion.gemma4 import Gemma4Model
from ..fusion.scatter import scatter
from ..layers.linear import Embedding, Linear
from ..layers.norm import RMSNorm
from ..processing.base import Processing, pick
from ..processing.gemma3n import Gemma3nProcessing, MediaTokens, mel_of
from ..processing.image.fixed import FixedStrategy
from ..processing.image.pixels import BILINEAR, HALF_MEAN, HALF_STD, Normalize
from ..towers.gemma3n_audio import Gemma3nAudio, Gemma3nAudioConfig, gemma3n_audio_rules
from ..towers.mobilenet_v5 import MobileNetConfig, MobileNetV5, mobilenet_rules

_TOWERS = ("vision_tower", "embed_vision", "audio_tower", "embed_audio")
_IMAGE = ("image_token_id", "boi_token_id", "eoi_token_id", "vision_soft_tokens_per_image")
_AUDIO = ("audio_token_id", "boa_token_id", "eoa_token_id", "audio_soft_tokens_per_image")


@dataclass(frozen=True)
class TableConfig:
    """A table of tokens of one kind of media: its first id, entries, width, and the norms' epsilon."""

    first: int
    count: int
    dim: int
    norm_eps: float

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], first: int, dim: int) -> TableConfig:
        return cls(
            take(hf, "vocab_offset", int, first),
            take(hf, "vocab_size", int, 128),
            dim,
            take(hf, "rms_norm_eps", float, 1e-6),
        )


@dataclass(frozen=True)
class Config:
    """seen, heard: tables of tokens. silence: the token that stands where a sound has no rows any more."""

    vision: MobileNetConfig
    audio: Gemma3nAudioConfig
    text: Gemma3nConfig
    seen: TableConfig
    heard: TableConfig
    silence: int
    tokens: Mapping[MediaKind, MediaTokens]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        vision, audio = (
            MobileNetConfig.from_hf(sub(hf, "vision_config")),
            Gemma3nAudioConfig.from_hf(sub(hf, "audio_config")),
        )
        expect(hf, "tie_word_embeddings", True)
        text = Gemma3nConfig.of(sub(hf, "text_config"))
        seen = TableConfig.from_hf(sub(hf, "vision_config"), 262_144, vision.dim)
        heard = TableConfig.from_hf(sub(hf, "audio_config"), 262_272, audio.layers.dim)
        silence = text.vocab_size - 1
        check(heard.first <= silence < heard.first + heard.count, f"token {silence} is not in the audio table")
        images = MediaTokens.from_hf(hf, _IMAGE, MediaTokens(262_145, (255_999, 262_144), 256))
        check(
            images.count == vision.out_side**2,
            f"a map of {vision.out_side} x {vision.out_side} does not make {images.count} tokens",
        )
        sounds = MediaTokens.from_hf(hf, _AUDIO, MediaTokens(262_273, (256_000, 262_272), 188))
        return cls(vision, audio, text, seen, heard, silence, {"image": images, "audio": sounds})


class Embedder(nn.Module):
    """Rows of a tower, and tokens of a table, at the decoder's width."""

    def __init__(self, config: TableConfig, out_size: int) -> None:
        super().__init__()
        self.embedding = Embedding(config.count, config.dim)
        self.hard_embedding_norm = RMSNorm(config.dim, config.norm_eps)
        self.soft_embedding_norm = RMSNorm(config.dim, config.norm_eps)
        self.embedding_projection = Linear(config.dim, out_size, bias=False)
        self.config = config

    def rows(self, x: mx.array) -> mx.array:
        return self._projected(self.soft_embedding_norm(x))

    def tokens(self, ids: mx.array) -> mx.array:
        """Ids outside the table read its nearest entry."""
        places = mx.clip(ids - self.config.first, 0, self.config.count - 1)
        return self._projected(self.hard_embedding_norm(self.embedding(places)))

    def _projected(self, x: mx.array) -> mx.array:
        return rms_norm(self.embedding_projection(x), None, self.config.norm_eps)


class Model(Gemma4Model):
    language_model: Gemma3nDecoder

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.silence, self.num_heard = config.silence, config.tokens["audio"].count
        self.vision_tower, self.audio_tower = MobileNetV5(config.vision), Gemma3nAudio(config.audio)
        self.embed_vision = Embedder(config.seen, config.text.dim)
        self.embed_audio = Embedder(config.heard, config.text.dim)
        self.language_model = Gemma3nDecoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self._heard(item) if item.kind == "audio" else self._seen(item)) for item in items]

    def _seen(self, item: MediaItem) -> mx.array:
        rows = self.vision_tower(mx.array(item.arrays["pixels"]))
        return self.embed_vision.rows(rows * rows.shape[-1] ** 0.5)[0]

    def _heard(self, item: MediaItem) -> mx.array:
        rows = self.embed_audio.rows(self.audio_tower(mx.array(item.arrays["frames"])[None], item.grid[0])[0])
        silence = self.embed_audio.tokens(mx.full((self.num_heard - len(rows),), self.silence, mx.int32))
        return mx.concatenate([rows, silence])

    def embed(self, tokens: mx.array, features: Sequence[Features], spans: Sequence[Span]) -> Inputs:
        decoder, first = self.language_model, self.embed_audio.config.first
        is_heard = (tokens >= first)[..., None]
        is_seen = (tokens >= self.embed_vision.config.first)[..., None] & ~is_heard
        embeds = mx.where(is_seen, self.embed_vision.tokens(tokens), decoder.embed(tokens))
        embeds = mx.where(is_heard, self.embed_audio.tokens(tokens), embeds)
        embeds = scatter(embeds, features, spans)
        return Inputs(embeds, {PER_LAYER: decoder.per_layer(tokens, embeds)})


def weights(config: Config) -> Sequence[Rule]:
    """Published and saved: everything under `model.`, the vision tower with timm's own names; MLX conversions: without it."""
    return (
        *(Rename(f"model.{name}.*", f"{name}.*") for name in _TOWERS),
        Rename("vision_tower.timm_model.*", "vision_tower.*"),
        *gemma4_rules(config.text),
        *mobilenet_rules("vision_tower"),
        *gemma3n_audio_rules("audio_tower"),
    )


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    base = FixedStrategy(size=(768, 768), resample=BILINEAR, normalize=Normalize(mean=HALF_MEAN, std=HALF_STD))
    # published checkpoints keep the extractor's settings in the pictures' file
    sounds = mel_of(files.audio or files.image, config.audio.bins)
    for kind, own in config.tokens.items():
        key, count = f"{kind}_seq_length", own.count
        check(pick(files.processor, key, count) == count, f"processor: {key} must be the model's {count}")
    return Gemma3nProcessing(
        config.tokens, FixedStrategy.from_files(files.image, base), sounds, config.audio.reduction, table
    )


FAMILY = Family(
    name="gemma3n",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "audio"),
    keep_full=tuple(f"{name}.*" for name in _TOWERS),
)
