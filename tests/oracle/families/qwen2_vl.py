"""Qwen2-VL.

For the implementer:
- published names: `visual.*`, `model.*`, `lm_head.*`; config.json is flat (text keys at the top) with
  `rope_scaling.type` "mrope". save_pretrained 5.23 writes the published names too; only a checkpoint saved with
  save_original_format=False has `model.visual.*`, `model.language_model.*` (layout `memory`).
- vision `hidden_size` is the width after the merger (the text width); `embed_dim` is the tower's own.
- published vision_config says `in_chans`, transformers says `in_channels`.
- vision position ids of a picture: temporal axis counts 2-frame groups with step 1; the next token goes on at start +
  max(h, w) / merge, NOT at start + max(t, h, w): a long video does not advance by its number of frame groups.
- sliding window (`use_sliding_window`) applies to layers >= max_window_layers.
- rows padded on the right keep the reference's zero positions under padding.
"""

from __future__ import annotations

from typing import Any

import inputs
import torch
from hub import published, rope_to_hub
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil, Qwen2VLProcessor, Qwen2VLVideoProcessor

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {"min_pixels": 128, "max_pixels": 1600}
PATCHES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}


def processor() -> Qwen2VLProcessor:
    """The reference processor with small patches."""
    tokenizer = character_tokenizer(SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": SIZES["min_pixels"], "longest_edge": SIZES["max_pixels"]}
    pictures = Qwen2VLImageProcessorPil(size=size, **PATCHES)
    videos = Qwen2VLVideoProcessor(size=size, do_sample_frames=False, **PATCHES)
    return Qwen2VLProcessor(pictures, tokenizer, videos, chat_template=TEMPLATE)


def files() -> dict[str, dict[str, Any]]:
    """Processor files in both layouts."""
    made = processor_files(processor())
    mean, std = Qwen2VLImageProcessorPil().image_mean, Qwen2VLImageProcessorPil().image_std
    made["hub"]["preprocessor_config.json"] = {
        **SIZES,
        **PATCHES,
        "image_mean": mean,
        "image_std": std,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    }
    return made


def build(text: dict[str, Any], vision: dict[str, Any], *, tied: bool) -> Qwen2VLForConditionalGeneration:
    """A tiny model."""
    config = Qwen2VLConfig(
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
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": text.get("hidden_size", 64),
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            **vision,
        },
        vision_start_token_id=99,
        vision_end_token_id=100,
        image_token_id=102,
        video_token_id=103,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    return Qwen2VLForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """Flat, as Qwen/Qwen2-VL-*-Instruct publish it."""
    config = published(config, "4.41.2")
    text = rope_to_hub(config.pop("text_config"), default_type="mrope")
    text.pop("layer_types", None)
    vision = config.pop("vision_config")
    kept = {key: vision[key] for key in ("depth", "embed_dim", "mlp_ratio", "num_heads", "hidden_size", "patch_size")}
    kept |= {"in_chans": 3, "spatial_merge_size": 2, "spatial_patch_size": 4, "temporal_patch_size": 2}
    if text["sliding_window"] is None:
        text["sliding_window"] = text["max_position_embeddings"]
    return text | config | {"vision_token_id": 101, "vision_config": kept, "model_type": "qwen2_vl"}


def extras(model: Any, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Projected features of pictures and videos, and three-axis positions."""
    found = inputs.features(model, given)
    if found:
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
        names += ("second_per_grid_ts",)
        chosen = {name: given[name] for name in names if name in given}
        found["position_ids"], found["position_delta"] = model.model.get_rope_index(**chosen)
    return found


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def case(name: str, text: list[str], **media: Any) -> CaseSpec:
    """A case through the reference processor."""
    return inputs.build(processor(), name, text, extras=extras, **media)


def cases(turn: Any = turn) -> list[CaseSpec]:
    """Everything a Qwen-VL family is asked."""
    mixed = [turn(f"{IMAGE}What is it?"), turn("Say hello."), turn(f"{IMAGE}Or {IMAGE}?")]
    sizes = [(24, 32), (16, 16), (9, 41)]
    long = "".join(f"item {i}, " for i in range(5))
    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[(24, 32)]),
        case("multi", [turn(f"{IMAGE}and{IMAGE}then {IMAGE}?")], pictures=[(19, 45), (24, 24), (50, 13)]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(6, 16, 24)]),
        case("image_and_video", [turn(f"{VIDEO}{IMAGE}Same?")], videos=[(3, 24, 16)], pictures=[(17, 33)],
             notes="3 frames: the last is repeated to fill a pair"),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[(32, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=sizes),
        case("batch_right", mixed, pictures=sizes, side="right"),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base: tied, GQA; sliding: untied, sliding window on the last layers; yarn: rope scaling."""
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "factor": 4.0}
    yarn["original_max_position_embeddings"] = 32
    sliding = {"hidden_size": 96, "num_attention_heads": 6, "num_hidden_layers": 3, "rms_norm_eps": 1e-5}
    sliding |= {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
    sliding["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [4, 2, 2]}
    few = ("single", "long", "batch_left")
    return [
        Spec("qwen2_vl", "base", lambda: build({}, {}, tied=True), hub_config, cases, files=files()),
        Spec("qwen2_vl", "sliding", lambda: build(sliding, {"mlp_ratio": 3, "num_heads": 4}, tied=False), hub_config,
             lambda: inputs.pick(cases(), *few), files=files()),
        Spec("qwen2_vl", "yarn", lambda: build({"rope_parameters": yarn}, {}, tied=True), hub_config,
             lambda: inputs.pick(cases(), "long"), files=files()),
    ]  # fmt: skip
