"""GLM-4.1V / 4.5V dense (model_type glm4v).

For the implementer:
- published names are the model's own: `model.visual.*`, `model.language_model.*`, `lm_head.weight`.
- tower: 3-D patch convolution, then RMS norm (post_conv_layernorm), learned positions resampled BICUBICALLY
  (align_corners false, border padding, at cell centres (i + 0.5) / n * 2 - 1) from the image_size / patch grid,
  blocks with rotary positions, post_layernorm, a strided convolution (merge x merge) instead of joining, then the
  merger: proj, LayerNorm, gelu, gated MLP. attention_bias false in the tower.
- a clip's frame groups are encoded as pictures with t = 1 each.
- text: four norms a layer (post_self_attn_layernorm, post_mlp_layernorm before the residual), fused gate_up_proj,
  partial rotary (INTERLEAVED pairs) with M-RoPE sections in order t, h, w; q, k, v have biases.
- video: `<|begin_of_video|>` [`<|begin_of_image|>` image tokens `<|end_of_image|>` seconds]... ; video tokens carry
  the IMAGE id and mm_token_type_ids 2; outside a video the id means a picture.
- published text_config: rope_scaling {type: default, mrope_section}, partial_rotary_factor, rope_theta.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Glm4vConfig, Glm4vForConditionalGeneration
from transformers.models.glm4v import Glm4vImageProcessorPil, Glm4vProcessor, Glm4vVideoProcessor

from families import qwen2_vl

SPECIAL = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>"]
SPECIAL += ["<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>"]
IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"
VIDEO = "<|begin_of_video|><|video|><|end_of_video|>"
TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\\n' }}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for item in m.content %}{% if item.type == 'video' or 'video' in item %}"
    "{{ '<|begin_of_video|><|video|><|end_of_video|>' }}{% elif item.type == 'image' or 'image' in item %}"
    "{{ '<|begin_of_image|><|image|><|end_of_image|>' }}{% elif item.type == 'text' %}{{ item.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
PATCHES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}


def processor() -> Glm4vProcessor:
    """The reference processor with small patches."""
    tokenizer = character_tokenizer(SPECIAL, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": 128, "longest_edge": 3200}
    pictures = Glm4vImageProcessorPil(size=size, **PATCHES)
    videos = Glm4vVideoProcessor(size=size, do_sample_frames=False, **PATCHES)
    return Glm4vProcessor(pictures, tokenizer, videos, chat_template=TEMPLATE)


def parts(text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the configuration."""
    return {
        "text_config": {
            "vocab_size": 112,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "eos_token_id": [96, 100],
            "pad_token_id": 96,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
                "partial_rotary_factor": 0.5,
            },
            **text,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 56,
            "out_hidden_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "image_size": 24,
            **vision,
        },
        "image_start_token_id": 102,
        "image_end_token_id": 103,
        "video_start_token_id": 104,
        "video_end_token_id": 105,
        "image_token_id": 106,
        "video_token_id": 107,
    }


def build(text: dict[str, Any], vision: dict[str, Any]) -> Glm4vForConditionalGeneration:
    """A tiny model."""
    config = Glm4vConfig(**parts(text, vision), tie_word_embeddings=False)
    config._attn_implementation = "eager"
    return Glm4vForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As zai-org/GLM-4.1V-9B-Thinking publishes it."""
    config = published(config, "4.53.0.dev0")
    text = rope_to_hub(config["text_config"], default_type="default")
    text["partial_rotary_factor"] = text["rope_scaling"].pop("partial_rotary_factor")
    text["attention_bias"] = True
    vision = {**config["vision_config"], "model_type": "glm4v"}
    vision.pop("rope_parameters", None)
    return config | {"text_config": text, "vision_config": vision}


def case(name: str, text: list[str], **media: Any) -> CaseSpec:
    """A case through the reference processor."""
    return inputs.build(processor(), name, text, extras=qwen2_vl.extras, **media)


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"[gMASK]<sop><|user|>\n{content}<|assistant|>\n"


def cases() -> list[CaseSpec]:
    """Grids smaller and larger than the position table; clips with seconds."""
    mixed = [turn(f"{IMAGE}What is it?"), turn("Say hello."), turn(f"{IMAGE}Or {IMAGE}?")]
    long = "".join(f"item {i}, " for i in range(5))
    timed = {"video_metadata": [{"fps": 0.5, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}]}
    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[(24, 32)]),
        case("multi", [turn(f"{IMAGE}and{IMAGE}?")], pictures=[(19, 45), (50, 13)]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("video", [turn(f"{VIDEO}What moves?")], videos=[(4, 16, 24)], arguments=timed, notes="two seconds a frame"),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[(32, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
        case("batch_right", mixed, pictures=[(24, 32), (16, 16), (9, 41)], side="right"),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base; biased: biases in the tower, other sections and rotary share."""
    files = split_processor(processor_files(processor()))
    rope = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
    return [
        Spec("glm4v", "base", lambda: build({}, {}), hub_config, cases, files=files),
        Spec("glm4v", "biased", lambda: build({"rope_parameters": rope}, {"attention_bias": True, "image_size": 16}),
             hub_config, lambda: inputs.pick(cases(), "multi", "video"), files=files),
    ]  # fmt: skip
