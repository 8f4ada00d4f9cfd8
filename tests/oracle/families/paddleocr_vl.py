"""PaddleOCR-VL.

For the implementer:
- published names: `visual.vision_model.*` (SigLIP's), `mlp_AR.*` (projector), `model.*`, `lm_head.weight`; config.json is flat
  (text keys at the top). save_pretrained writes the published names too.
- tower: SigLIP's layers with rotary positions, a position table resampled bilinearly (align_corners false), patches row by row; the
  projector norms, then joins 2 x 2 patches.
- pixel_values are patches [n, 3, patch, patch]; no video. Sides shorter than a merged patch are enlarged first.
- text: Ernie 4.5 (Llama-like, use_bias for all projections), M-RoPE in blocks.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration
from transformers.models.paddleocr_vl import PaddleOCRVLImageProcessorPil, PaddleOCRVLProcessor

from families import qwen2_vl

SPECIAL = ["<unk>", "<|begin_of_sentence|>", "</s>", "<|IMAGE_START|>", "<|IMAGE_END|>", "<|IMAGE_PLACEHOLDER|>"]
IMAGE = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
TEMPLATE = (
    "<|begin_of_sentence|>{% for message in messages %}{% if message['role'] == 'user' %}User: "
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


def processor() -> PaddleOCRVLProcessor:
    """The reference processor with small patches."""
    names = {"image_token": "<|IMAGE_PLACEHOLDER|>"}
    tokenizer = character_tokenizer(SPECIAL, eos_token="</s>", pad_token="<unk>", extra_special_tokens=names)
    size = {"shortest_edge": 128, "longest_edge": 1600}
    return PaddleOCRVLProcessor(
        PaddleOCRVLImageProcessorPil(size=size, patch_size=4), tokenizer, chat_template=TEMPLATE
    )


def build(text: dict[str, Any], vision: dict[str, Any], *, tied: bool) -> PaddleOCRVLForConditionalGeneration:
    """A tiny model."""
    base = {
        "vocab_size": 112,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "eos_token_id": 98,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }
    tower = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"image_size": 24, "patch_size": 4}
    config = PaddleOCRVLConfig(
        text_config=base | text,
        vision_config=tower | vision,
        vision_start_token_id=99,
        vision_end_token_id=100,
        image_token_id=101,
        video_token_id=111,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    return PaddleOCRVLForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """Flat, as PaddlePaddle/PaddleOCR-VL publishes it."""
    config = published(config, "4.55.0")
    text = rope_to_hub(config.pop("text_config"), default_type="default")
    vision = {**config["vision_config"], "temporal_patch_size": 2}
    vision.pop("rope_parameters", None)
    return text | config | {"vision_config": vision, "model_type": "paddleocr_vl"}


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"<|begin_of_sentence|>User: {content}\nAssistant: "


def case(name: str, text: list[str], **media: Any) -> CaseSpec:
    """A case through the reference processor."""
    return inputs.build(processor(), name, text, extras=qwen2_vl.extras, **media)


def cases() -> list[CaseSpec]:
    """Grids smaller and larger than the position table; padded rows."""
    mixed = [turn(f"{IMAGE}OCR:"), turn("Say hello."), turn(f"{IMAGE}Or {IMAGE}?")]
    long = "".join(f"item {i}, " for i in range(5))
    return [
        case("single", [turn(f"{IMAGE}OCR:")], pictures=[(24, 32)]),
        case("multi", [turn(f"{IMAGE}and{IMAGE}?")], pictures=[(19, 45), (50, 5)]),
        case("text", [turn("Say hello.")], notes="no media"),
        case("long", [turn(f"{long}{IMAGE}{long}")], pictures=[(32, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
    ]


def specs() -> list[Spec]:
    """base: tied; biased: untied, biases, other sections."""
    files = split_processor(processor_files(processor()))
    rope = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [4, 2, 2]}
    biased = {"use_bias": True, "rope_parameters": rope, "num_key_value_heads": 1}
    return [
        Spec("paddleocr_vl", "base", lambda: build({}, {}, tied=True), hub_config, cases, files=files),
        Spec("paddleocr_vl", "biased", lambda: build(biased, {"image_size": 16}, tied=False), hub_config,
             lambda: inputs.pick(cases(), "multi"), files=files),
    ]  # fmt: skip
