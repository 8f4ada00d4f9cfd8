"""Idefics2 (arXiv:2405.02246): a SigLIP tower for pictures of any shape, a perceiver that turns each picture into a fixed number
of tokens, a Mistral decoder.

Reference: transformers, Idefics2ForConditionalGeneration. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backbones.decoder import DecoderConfig
from ..backbones.text import text_config, text_decoder
from ..core.config import check, sub, take
from ..core.family import Family, ProcessorFiles, TokenTable
from ..core.inputs import Features, MediaItem
from ..core.weights import Flatten, Rename, Rule, Unflatten
from ..fusion.model import DecoderModel, decoder_rules, tower_rules
from ..layers.attention import encoder_attention, merge_heads, split_heads
from ..layers.linear import Linear
from ..layers.mlp import GatedMlp, gated
from ..layers.norm import RMSNorm
from ..processing.base import Processing
from ..processing.idefics import QuarterPictures
from ..processing.image.splits import QuartersStrategy
from ..towers.siglip import Siglip, SiglipConfig


@dataclass(frozen=True)
class ResamplerConfig:
    dim: int
    num_latents: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    act: str
    norm_eps: float

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ResamplerConfig:
        config = cls(
            take(hf, "hidden_size", int, 4096),
            take(hf, "resampler_n_latents", int, 64),
            take(hf, "resampler_depth", int, 3),
            take(hf, "resampler_n_heads", int, 16),
            take(hf, "num_key_value_heads", int, 4),
            take(hf, "resampler_head_dim", int, 96),
            take(hf, "hidden_act", str, "silu"),
            take(hf, "rms_norm_eps", float, 1e-6),
        )
        gated(config.act)
        check(config.num_heads % config.num_kv_heads == 0, "resampler heads cannot share their key heads")
        return config


@dataclass(frozen=True)
class Config:
    vision: SiglipConfig
    resampler: ResamplerConfig
    text: DecoderConfig
    image_token: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Config:
        config = cls(
            SiglipConfig.from_hf(sub(hf, "vision_config", "idefics2_vision", "idefics2"), patch_size=32),
            ResamplerConfig.from_hf(sub(hf, "perceiver_config", "idefics2_perceiver", "idefics2")),
            text_config(sub(hf, "text_config"), tied=take(hf, "tie_word_embeddings", bool, False), kind="mistral"),
            take(hf, "image_token_id", int, 32001),
        )
        check(config.resampler.dim == config.text.dim, "perceiver hidden_size differs from the text's")
        return config


class ResamplerAttention(nn.Module):
    """Latents attend to the context and to themselves."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        kv_size = config.num_kv_heads * config.head_dim
        self.q_proj = Linear(config.dim, config.num_heads * config.head_dim, bias=False)
        self.k_proj = Linear(config.dim, kv_size, bias=False)
        self.v_proj = Linear(config.dim, kv_size, bias=False)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.dim, bias=False)

    def __call__(self, latents: mx.array, context: mx.array) -> mx.array:
        config, both = self.config, mx.concatenate([context, latents], axis=1)
        q = split_heads(self.q_proj(latents), config.num_heads)
        k, v = (split_heads(project(both), config.num_kv_heads) for project in (self.k_proj, self.v_proj))
        return self.o_proj(merge_heads(encoder_attention(q, k, v, scale=config.head_dim**-0.5)))


class ResamplerLayer(nn.Module):
    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.input_latents_norm = RMSNorm(config.dim, config.norm_eps)
        self.input_context_norm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = ResamplerAttention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = GatedMlp(config.dim, 4 * config.dim, config.act)

    def __call__(self, latents: mx.array, context: mx.array) -> mx.array:
        latents = latents + self.self_attn(self.input_latents_norm(latents), self.input_context_norm(context))
        return latents + self.mlp(self.post_attention_layernorm(latents))


class Resampler(nn.Module):
    """Learnt latents that read a picture of any number of patches."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.latents = mx.zeros((config.num_latents, config.dim))
        self.layers = [ResamplerLayer(config) for _ in range(config.depth)]
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def __call__(self, context: mx.array) -> mx.array:
        """[1, patches, dim] -> [1, latents, dim]."""
        latents = self.latents[None]
        for layer in self.layers:
            latents = layer(latents, context)
        return self.norm(latents)


class Connector(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        text = config.text
        self.modality_projection = GatedMlp(config.vision.dim, text.hidden, text.act)
        self.modality_projection.down_proj = Linear(text.hidden, text.dim, bias=False)
        self.perceiver_resampler = Resampler(config.resampler)

    def __call__(self, patches: mx.array) -> mx.array:
        return self.perceiver_resampler(self.modality_projection(patches))


class Model(DecoderModel):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_model = Siglip(config.vision)
        self.connector = Connector(config)
        self.language_model = text_decoder(config.text)

    def encode(self, items: Sequence[MediaItem]) -> list[Features]:
        return [Features(mx.concatenate([self._encode(part) for part in item.arrays.values()])) for item in items]

    def _encode(self, pixels: Any) -> mx.array:
        return self.connector(self.vision_model.bucketed(mx.array(pixels)))[0]


def weights(config: Config) -> Sequence[Rule]:
    """Published and transformers 5: model.vision_model.*, model.connector.*, model.text_model.*, lm_head. MLX: without model."""
    return (
        *tower_rules("vision_model"),
        Rename("model.connector.*", "connector.*"),
        Rename("model.text_model.*", "language_model.*"),
        *decoder_rules(tied=config.text.tied),
        Flatten("vision_model.embeddings.patch_embedding.weight"),
    )


def mlx_names(config: Config) -> Sequence[Rule]:
    """The text side keeps its names; the patch convolution is written [out, patch, patch, channels]."""
    patch = config.vision.patch
    return (Unflatten("vision_model.embeddings.patch_embedding.weight", (config.vision.channels, patch, patch)),)


def processing(config: Config, files: ProcessorFiles, table: TokenTable | None) -> Processing:
    strategy = QuartersStrategy.from_files(files.image)
    return QuarterPictures(config.image_token, strategy, config.resampler.num_latents, table)


FAMILY = Family(
    name="idefics2",
    config=Config.from_hf,
    model=Model,
    weights=weights,
    processing=processing,
    modalities=("image",),
    keep_full=("vision_model.*", "connector.*"),
    mlx_names=mlx_names,
)
