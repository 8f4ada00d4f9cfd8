"""Qwen2.5-VL.

For the implementer:
- published names and flat config.json as Qwen2-VL; vision `hidden_size` is the tower's width here, `out_hidden_size`
  the text's.
- the tower: RMS norms, gated MLP with biases, window attention except at `fullatt_block_indexes`; windows of
  window_size / merge / patch merged cells a side, cut off at the picture's edges; tokens are reordered by window
  before the blocks and put back after the merger.
- video: temporal positions of group g are start + floor(g * tokens_per_second * second_per_grid_ts); pictures step by
  1. The token after a video goes on at start + max(h, w) / merge, whatever the temporal positions reached, so
  positions may fall back; the decode delta is (largest position + 1 - length).
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil, Qwen2VLVideoProcessor

from families import qwen2_vl
from families.qwen2_vl import IMAGE, PATCHES, SIZES, SPECIAL, TEMPLATE, VIDEO, turn


def processor() -> Qwen2_5_VLProcessor:
    """The reference processor with small patches."""
    tokenizer = character_tokenizer(SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": SIZES["min_pixels"], "longest_edge": SIZES["max_pixels"]}
    pictures = Qwen2VLImageProcessorPil(size=size, **PATCHES)
    videos = Qwen2VLVideoProcessor(size=size, do_sample_frames=False, **PATCHES)
    return Qwen2_5_VLProcessor(pictures, tokenizer, videos, chat_template=TEMPLATE)


def files() -> dict[str, dict[str, Any]]:
    """Processor files in both layouts."""
    made = processor_files(processor())
    made["hub"]["preprocessor_config.json"] = {
        **qwen2_vl.files()["hub"]["preprocessor_config.json"],
        "processor_class": "Qwen2_5_VLProcessor",
    }
    return made


def build(text: dict[str, Any], vision: dict[str, Any], *, tied: bool) -> Qwen2_5_VLForConditionalGeneration:
    """A tiny model."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 112,
            "hidden_size": 64,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 96,
            "eos_token_id": 98,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            **text,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": text.get("hidden_size", 64),
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            **vision,
        },
        vision_start_token_id=99,
        vision_end_token_id=100,
        image_token_id=102,
        video_token_id=103,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    return Qwen2_5_VLForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """Flat, as Qwen/Qwen2.5-VL-*-Instruct publish it."""
    config = published(config, "4.41.2")
    text = rope_to_hub(config.pop("text_config"), default_type="mrope")
    text.pop("layer_types", None)
    vision = config.pop("vision_config")
    names = ("depth", "hidden_act", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size")
    names += ("spatial_merge_size", "window_size", "fullatt_block_indexes", "tokens_per_second", "temporal_patch_size")
    kept = {key: vision[key] for key in names} | {"in_chans": 3, "spatial_patch_size": 4}
    if text["sliding_window"] is None:
        text["sliding_window"] = text["max_position_embeddings"]
    return text | config | {"vision_token_id": 101, "vision_config": kept, "model_type": "qwen2_5_vl"}


def case(name: str, text: list[str], **media: Any) -> CaseSpec:
    """A case through the reference processor."""
    return inputs.build(processor(), name, text, extras=qwen2_vl.extras, **media)


def cases() -> list[CaseSpec]:
    """Windows larger and smaller than pictures, videos at two frame rates."""
    mixed = [turn(f"{IMAGE}What is it?"), turn("Say hello."), turn(f"{IMAGE}Or {IMAGE}?")]
    long = "".join(f"item {i}, " for i in range(5))
    slow = {"video_metadata": [{"fps": 1.3, "total_num_frames": 5, "frames_indices": [0, 1, 2, 3, 4]}]}
    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[(24, 32)]),
        case("multi", [turn(f"{IMAGE}and{IMAGE}?")], pictures=[(19, 45), (50, 13)]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(6, 16, 24)], notes="the default rate"),
        case("video_slow", [turn(f"{VIDEO}What moves?")], videos=[(5, 24, 24)], arguments=slow, notes="1.3 frames a second"),
        case("image_and_video", [turn(f"{VIDEO}{IMAGE}Same?")], videos=[(3, 24, 16)], pictures=[(17, 33)]),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[(32, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
        case("batch_right", mixed, pictures=[(24, 32), (16, 16), (9, 41)], side="right"),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base: tied; sliding: untied, sliding window, all tower blocks windowed but the last."""
    sliding = {"hidden_size": 96, "num_attention_heads": 6, "num_hidden_layers": 3, "rms_norm_eps": 1e-5}
    sliding |= {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
    sliding["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [4, 2, 2]}
    tower = {"window_size": 24, "fullatt_block_indexes": [2], "num_heads": 4}
    return [
        Spec("qwen2_5_vl", "base", lambda: build({}, {}, tied=True), hub_config, cases, files=files()),
        Spec("qwen2_5_vl", "sliding", lambda: build(sliding, tower, tied=False), hub_config,
             lambda: inputs.pick(cases(), "multi", "long"), files=files()),
    ]  # fmt: skip
