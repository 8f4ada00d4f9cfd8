"""Qwen3-VL and its mixture of experts (family folder qwen3_vl_moe).

For the implementer:
- published names are the model's own: `model.visual.*`, `model.language_model.*`, `lm_head.weight`.
- published `text_config.rope_scaling` = {rope_type default, mrope_interleaved true, mrope_section};
  vision_config.model_type is "qwen3_vl" (or "qwen3_vl_moe") there. mrope is always interleaved: frequency i takes the
  height axis where i % 3 == 1 and i < 3 * section[1], the width axis where i % 3 == 2 and i < 3 * section[2], else
  the temporal one.
- tower: a learned position table (sqrt(num_position_embeddings) a side) is resampled bilinearly to each grid (corners
  aligned, linspace over 0..side-1), then laid out in merge order; rotary positions on top. LayerNorm eps 1e-6.
  deepstack mergers norm AFTER joining 2x2 (width 4 * hidden), the final merger before.
- deepstack level i is added to the hidden states at media positions after text layer i.
- video: every frame group is a block of its own `<t seconds><|vision_start|>...<|vision_end|>`, its timestamp the
  mean of the group's frames; video_grid_thw keeps (t, h, w) per clip, positions treat each frame group as a picture
  with t = 1.
- text attention: RMS norm on q and k per head (head_dim explicit).
- experts are published as gate_up_proj [experts, hidden, 2 * width] and down_proj [experts, width, hidden], used as x
  @ W; save_pretrained 5.23 writes them transposed, [experts, 2 * width, hidden] and [experts, hidden, width]. Shapes
  tell which. Router: softmax over all experts, top k, renormalised.
- one picture's features are recorded as `image_features`, deepstack levels as `image_deepstack` [levels, tokens,
  width].
"""

from __future__ import annotations

from typing import Any

import inputs
import torch
from hub import published, rope_to_hub, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl import Qwen3VLProcessor, Qwen3VLVideoProcessor

from families import qwen2_vl
from families.qwen2_vl import IMAGE, PATCHES, SIZES, SPECIAL, TEMPLATE, turn

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def processor() -> Qwen3VLProcessor:
    """The reference processor with small patches."""
    tokenizer = character_tokenizer(SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": SIZES["min_pixels"], "longest_edge": SIZES["max_pixels"]}
    pictures = Qwen2VLImageProcessorPil(size=size, **PATCHES, **HALF)
    clips = {"shortest_edge": 256, "longest_edge": 4096}
    videos = Qwen3VLVideoProcessor(size=clips, do_sample_frames=False, **PATCHES, **HALF)
    return Qwen3VLProcessor(pictures, tokenizer, videos, chat_template=TEMPLATE)


def parts(text: dict[str, Any], vision: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    """Keyword arguments of the configuration."""
    return {
        "text_config": {
            "vocab_size": 112,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "bos_token_id": 96,
            "eos_token_id": 98,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            **text,
        },
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
            **vision,
        },
        "vision_start_token_id": 99,
        "vision_end_token_id": 100,
        "image_token_id": 102,
        "video_token_id": 103,
        "tie_word_embeddings": tied,
    }


def build(text: dict[str, Any], vision: dict[str, Any], *, tied: bool) -> Qwen3VLForConditionalGeneration:
    """A tiny dense model."""
    config = Qwen3VLConfig(**parts(text, vision, tied=tied))
    config._attn_implementation = "eager"
    return Qwen3VLForConditionalGeneration(config)


def build_moe(text: dict[str, Any], *, tied: bool) -> Qwen3VLMoeForConditionalGeneration:
    """A tiny mixture of experts."""
    config = Qwen3VLMoeConfig(**parts(text, {}, tied=tied))
    config._attn_implementation = "eager"
    return Qwen3VLMoeForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As Qwen/Qwen3-VL-* publish it."""
    config = published(config, "4.57.0.dev0")
    text = rope_to_hub(config["text_config"])
    text["rope_scaling"] = {"rope_type": "default", **text.get("rope_scaling", {})}
    text["rope_scaling"].pop("type", None)
    vision = {**config["vision_config"], "model_type": config["model_type"]}
    vision.pop("rope_parameters", None)
    return config | {"text_config": text, "vision_config": vision}


def to_hub(tensors: dict[str, Any]) -> dict[str, Any]:
    """Experts as they are published."""
    return {name: t.swapaxes(1, 2) if ".experts." in name else t for name, t in tensors.items()}


def extras(model: Any, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Features, deepstack levels and positions."""
    found = qwen2_vl.extras(model, given)
    for kind, key in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if key in given:
            result = model.model.visual(given[key], grid_thw=given[f"{kind}_grid_thw"], return_dict=True)
            found[f"{kind}_deepstack"] = torch.stack(list(result.deepstack_features))
    return found


def case(name: str, text: list[str], **media: Any) -> CaseSpec:
    """A case through the reference processor."""
    return inputs.build(processor(), name, text, extras=extras, **media)


def cases() -> list[CaseSpec]:
    """Grids smaller and larger than the position table; clips with timestamps."""
    mixed = [turn(f"{IMAGE}What is it?"), turn("Say hello."), turn(f"{IMAGE}Or {IMAGE}?")]
    long = "".join(f"item {i}, " for i in range(5))
    timed = {"video_metadata": [{"fps": 1.3, "total_num_frames": 5, "frames_indices": [0, 1, 2, 3, 4]}]}
    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[(24, 32)]),
        case("multi", [turn(f"{IMAGE}and{IMAGE}?")], pictures=[(19, 45), (50, 13)]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(5, 16, 24)], arguments=timed, notes="1.3 frames a second"),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[(32, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
        case("batch_right", mixed, pictures=[(24, 32), (16, 16), (9, 41)], side="right"),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base: tied; untied: attention biases, other sections; moe: experts in all layers but one."""
    files = split_processor(processor_files(processor()))
    rope = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    untied = {"attention_bias": True, "num_attention_heads": 6, "rms_norm_eps": 1e-5, "rope_parameters": rope}
    tower = {"num_position_embeddings": 16, "deepstack_visual_indexes": [1], "num_heads": 4}
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "mlp_only_layers": [1]}
    return [
        Spec("qwen3_vl", "base", lambda: build({}, {}, tied=True), hub_config, cases, files=files),
        Spec("qwen3_vl", "untied", lambda: build(untied, tower, tied=False), hub_config,
             lambda: inputs.pick(cases(), "multi", "video"), files=files),
        Spec("qwen3_vl_moe", "base", lambda: build_moe(experts, tied=False), hub_config,
             lambda: inputs.pick(cases(), "single", "multi", "video", "batch_left"), to_hub, files=files),
    ]  # fmt: skip
