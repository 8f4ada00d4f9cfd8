"""Gemma 4 unified: no towers. Patches of pixels and stretches of samples go into a Gemma 4 decoder through a linear layer or two.

Reference: transformers, Gemma4UnifiedForConditionalGeneration. Deviations: frames of videos are resized by Pillow as pictures are.
Pictures see themselves in every layer and beyond the window, as in the reference's forward pass and its `generate`; with a static
cache, which is not its default, `generate` has Gemma 4's masks instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones.gemma4 import Gemma4Config, Gemma4Decoder, gemma4_rules
from ..core.config import expect, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Rename, Rule
from ..errors import ModalityError, ModelError, ProcessingError
from ..fusion.gemma4 import Gemma4Embedder, Gemma4Model
from ..layers.linear import Linear
from ..layers.norm import LayerNorm
from ..processing.base import Processing, pick
from ..processing.gemma4 import Gemma4Processing, Gemma4Tokens
from ..processing.image.budget import BudgetStrategy


@dataclass(frozen=True)
class Config:
    """patch, pool: pixels a side of a patch, patches a side of a token. positions: of each axis. samples: of a sound to a token,
    None in models that do not hear. norm_eps: before the projections of pictures and of sounds."""

    patch: int
    pool: int
    dim: int
    positions: int
    samples: int | None
    norm_eps: tuple[float, float]
    text: Gemma4Config
    tokens: Gemma4Tokens

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        expect(hf, "tie_word_embeddings", True)
        vision, text = sub(hf, "vision_config"), sub(hf, "text_config")
        expect(vision, "model_type", "gemma4_unified_vision")
        expect(text, "model_type", "gemma4_unified_text")
        hears = hf.get("audio_config") is not None
        audio = sub(hf, "audio_config") if hears else {}
        dim = take(vision, "mm_embed_dim", int, 3840)
        expect(vision, "output_proj_dims", dim)
        return cls(
            take(vision, "patch_size", int, 16),
            take(vision, "pooling_kernel_size", int, 3),
            dim,
            take(vision, "mm_posemb_size", int, 1120),
            take(audio, "audio_embed_dim", int, 640) if hears else None,
            (take(vision, "rms_norm_eps", float, 1e-6), take(audio, "rms_norm_eps", float, 1e-6)),
            Gemma4Config.from_hf(
                {"sliding_window": 1024, **text}, blocks="vision", per_layer=0, blocks_everywhere=True
            ),
            Gemma4Tokens.from_hf(hf, hears=hears),
        )


class PatchEmbedder(nn.Module):
    """Norm, linear map, norm, positions of both axes, norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = 3 * (config.patch * config.pool) ** 2
        self.patch_ln1, self.patch_dense = LayerNorm(size), Linear(size, config.dim)
        self.patch_ln2, self.pos_norm = LayerNorm(config.dim), LayerNorm(config.dim)
        self.pos_embedding = mx.zeros((config.positions, 2, config.dim))

    def __call__(self, patches: mx.array, rows: int, columns: int) -> mx.array:
        """[n, rows * columns, 3 side^2] -> [n, rows * columns, dim]."""
        table = self.pos_embedding
        if max(rows, columns) > table.shape[0]:
            raise ModelError(f"a picture is longer than {table.shape[0]} patches, the model's limit")
        places = table[None, :columns, 0] + table[:rows, None, 1]
        x = self.patch_ln2(self.patch_dense(self.patch_ln1(patches.astype(table.dtype))))
        return self.pos_norm(x + places.reshape(-1, table.shape[-1]))


class Model(Gemma4Model):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.media_tokens = config.tokens.reserved
        self.vision_embedder = PatchEmbedder(config)
        self.embed_vision = Gemma4Embedder(config.dim, config.text.dim, config.norm_eps[0])
        if config.samples is not None:
            self.embed_audio = Gemma4Embedder(config.samples, config.text.dim, config.norm_eps[1])
        self.language_model = Gemma4Decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(self._heard(item) if item.kind == "audio" else self._seen(item)) for item in items]

    def _seen(self, item: MediaItem) -> mx.array:
        _, rows, columns = item.grid
        x = self.embed_vision(self.vision_embedder(mx.array(item.arrays["pixels"]), rows, columns))
        return x.reshape(-1, x.shape[-1])

    def _heard(self, item: MediaItem) -> mx.array:
        if "embed_audio" not in self:
            raise ModalityError("this Gemma 4 takes no audio")
        frames = mx.array(item.arrays["frames"])
        return self.embed_audio(frames.astype(self.vision_embedder.pos_embedding.dtype))


@dataclass(frozen=True)
class Stretches:
    """A sound as stretches of `samples` samples, the last filled up with silence."""

    samples: int
    rate: int

    def __call__(self, pcm: np.ndarray) -> np.ndarray:
        """float32 [samples] -> float32 [stretches, samples of one]."""
        if not len(pcm):
            raise ProcessingError("a sound has no samples")
        return np.pad(pcm, (0, -len(pcm) % self.samples)).reshape(-1, self.samples).astype(np.float32)


def weights(config: Config) -> Sequence[Rule]:
    """Published: model.vision_embedder, model.embed_vision.embedding_projection; the reference's own names put both in one."""
    inner = ("patch_ln1.*", "patch_ln2.*", "patch_dense.*", "pos_norm.*", "pos_embedding")
    return (
        *(Rename(f"model.{name}.*", f"{name}.*") for name in ("vision_embedder", "embed_vision", "embed_audio")),
        *(Rename(f"embed_vision.{name}", f"vision_embedder.{name}") for name in inner),
        Rename("embed_vision.multimodal_embedder.*", "embed_vision.*"),
        *gemma4_rules(config.text),
    )


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    side = config.patch * config.pool

    def strategy(given: Mapping[str, Any], tokens: int) -> BudgetStrategy:
        read = BudgetStrategy.from_files(given, BudgetStrategy(config.patch, config.pool, tokens))
        return replace(read, patch=side, pool=1)

    sounds = None
    if config.samples is not None:
        given = files.audio or files.image
        if pick(given, "audio_samples_per_token", config.samples) != config.samples:
            raise ProcessingError(f"preprocessor: a token of sound must have the model's {config.samples} samples")
        sounds = Stretches(config.samples, int(pick(given, "sampling_rate", 16_000)))
    return Gemma4Processing(
        config.tokens,
        strategy(files.image, 280),
        strategy(files.video, 70),
        int(pick(files.video, "num_frames", 32)),
        sounds,
        thinning=1,
        blocks_seen=config.text.sees_blocks,
        table=table,
    )


FAMILY = Family(
    name="gemma4_unified",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image", "video", "audio"),
    keep_full=("vision_embedder.*", "embed_vision.*", "embed_audio.*"),
)
