"""Gemma 4 unified (12b): no towers; pixels and samples go straight into the text model.

For the implementer:
- published names: `model.vision_embedder.{patch_ln1,patch_dense,patch_ln2,pos_embedding,pos_norm}`,
  `model.embed_vision.embedding_projection`, `model.embed_audio.embedding_projection`, `model.language_model.*`;
  save_pretrained writes the same.
- a token is a patch of patch_size * pooling_kernel_size pixels a side, in [0, 1], channel last, row by row;
  pixel_values [pictures, tokens, 3 * P * P], padded; positions (x, y) of merged patches, -1 for padding.
- features: LayerNorm (eps 1e-5, with bias), dense, LayerNorm, + pos_embedding[x, 0] + pos_embedding[y, 1], LayerNorm,
  RMS norm without weight, projection.
- sounds: the waveform cut into frames of audio_embed_dim samples (the last padded with zeros), RMS norm without
  weight, projection.
- text as Gemma 4's (global head dim, KV sharing, k equals v), always with "vision" masks on sliding layers by
  default.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration
from transformers.models.gemma4_unified import (
    Gemma4UnifiedAudioFeatureExtractor,
    Gemma4UnifiedImageProcessor,
    Gemma4UnifiedProcessor,
    Gemma4UnifiedVideoProcessor,
)

from families.gemma4 import AUDIO, IMAGE, NAMES, SPECIAL, TEMPLATE, VIDEO, hub_config, spread, turn


def processor() -> Gemma4UnifiedProcessor:
    """The reference processor: patches of 2 pixels, merged 2 x 2, up to 70 tokens a picture; 64 samples a token."""
    tokenizer = character_tokenizer(
        SPECIAL, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=NAMES
    )
    small = {"patch_size": 2, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    pictures = Gemma4UnifiedImageProcessor(**small)
    videos = Gemma4UnifiedVideoProcessor(**small, do_sample_frames=False)
    sounds = Gemma4UnifiedAudioFeatureExtractor(feature_size=64, audio_samples_per_token=64)
    return Gemma4UnifiedProcessor(
        sounds, pictures, tokenizer, videos, TEMPLATE, image_seq_length=70, audio_ms_per_token=4
    )


def build() -> Gemma4UnifiedForConditionalGeneration:
    """A tiny model."""
    config = Gemma4UnifiedConfig(
        text_config={
            "vocab_size": 116,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "max_position_embeddings": 512,
            "sliding_window": 30,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "bos_token_id": 98,
            "eos_token_id": 97,
            "pad_token_id": 96,
        },
        vision_config={
            "patch_size": 2,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 40,
            "mm_posemb_size": 80,
            "output_proj_dims": 40,
        },
        audio_config={"audio_embed_dim": 64},
        boi_token_id=101,
        image_token_id=102,
        eoi_token_id=103,
        boa_token_id=104,
        audio_token_id=105,
        eoa_token_index=106,
        video_token_id=107,
    )
    config._attn_implementation = "eager"
    return Gemma4UnifiedForConditionalGeneration(config)


def cases() -> list[CaseSpec]:
    """Pictures, a clip, sounds."""
    mixed = [turn(f"{IMAGE}What?"), turn("Say hello.")]
    timed = {"video_metadata": [{"fps": 0.5, "total_num_frames": 2, "frames_indices": [0, 1]}]}
    drop = ("num_soft_tokens_per_image", "num_soft_tokens_per_video")

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, drop=drop, **media)

    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[[(30, 42)]]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(2, 12, 50)], arguments=timed, notes="two seconds a frame"),
        case("audio_and_image", [turn(f"{AUDIO}{IMAGE}Both {AUDIO}?")], sounds=[500, 1000], pictures=[[(12, 60)]]),
        case("batch_left", mixed, pictures=[[(24, 32)], []]),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base."""
    files = split_processor(processor_files(processor()))
    return [Spec("gemma4_unified", "base", build, hub_config, cases, spread=spread, files=files)]
