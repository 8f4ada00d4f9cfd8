"""LLaVA-OneVision (SigLIP + Qwen2).

For the implementer:
- names as LLaVA-NeXT (`image_newline` at the top, tower with inner `vision_model.` when published).
- pictures as LLaVA-NeXT (thumbnail first, unpadded map, newline per row), and when the map's cells exceed max *
  side^2 (vision_aspect_ratio "anyres_max_N") by a ratio sqrt(h * w / (N * side^2)) > 1.1 it is resized BILINEARLY to
  int(h // ratio) x int(w // ratio).
- several pictures in one prompt (batch_num_images > 1): each is its thumbnail only, plus one newline feature (no
  tiles).
- video: every frame is encoded, its map resized bilinearly to ceil(side / 2) (align_corners false), frames joined,
  ONE newline feature at the end of the clip.
- tower: SigLIP, feature layer -1 (before post_layernorm), strategy full. Published towers lack the last block (26 of
  27) and have vision_use_head false.
- pixel_values [pictures, tiles, 3, side, side], padded with zero tiles; how many count follows from image_sizes and
  pinpoints.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision import (
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from families.llava import text_config, to_hub, vision_config

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\\n' + content['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PINPOINTS = [[12 * row, 12 * column] for row in (1, 2, 3) for column in (1, 2, 3)]
SIZE = {"height": 12, "width": 12}


def processor(limit: str = "anyres_max_9") -> LlavaOnevisionProcessor:
    """The reference processor: tiles of 12 pixels, patches of 4."""
    tokenizer = character_tokenizer(SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    pictures = LlavaOnevisionImageProcessorPil(size=SIZE, image_grid_pinpoints=PINPOINTS)
    videos = LlavaOnevisionVideoProcessor(size=SIZE)
    return LlavaOnevisionProcessor(pictures, tokenizer, videos, 9, "full", TEMPLATE, vision_aspect_ratio=limit)


def build(limit: str, **text: Any) -> LlavaOnevisionForConditionalGeneration:
    """A tiny model."""
    config = LlavaOnevisionConfig(
        vision_config=vision_config("siglip_vision_model", vision_use_head=False, image_size=12, patch_size=4),
        text_config=text_config("qwen2", pad_token_id=96, bos_token_id=96, eos_token_id=98, **text),
        image_token_index=99,
        video_token_index=100,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=limit,
    )
    config._attn_implementation = "eager"
    return LlavaOnevisionForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As llava-hf/llava-onevision-* publish it."""
    config = published(config, "4.45.0.dev0")
    text = thin(rope_to_hub(config["text_config"]))
    text.pop("layer_types", None)
    vision = thin(config["vision_config"])
    return config | {"text_config": text, "vision_config": vision, "use_image_newline_parameter": True}


def cases(limit: str = "anyres_max_9") -> list[CaseSpec]:
    """Grids up to 3 x 3, several pictures, clips; padded rows."""
    long = "".join(f"item {i}, " for i in range(4))
    mixed = ["user <image>\nWhat?", "user Say hello.", "user <image>\nAnd?"]

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(limit), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<|im_start|>user <image>\nName it.<|im_end|>"], pictures=[(30, 42)]),
        case("multi", ["<|im_start|>user <image><image>\nSame?<|im_end|>"], pictures=[(19, 45), (50, 13)],
             notes="thumbnails only"),
        case("text", ["<|im_start|>user Say hello.<|im_end|>"], notes="no media"),
        case("video", ["<|im_start|>user <video>\nWhat moves?<|im_end|>"], videos=[(3, 20, 30)]),
        case("long", [f"{long}<image>{long}"], pictures=[(12, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (9, 41)]),
        case("batch_right", mixed, pictures=[(24, 32), (9, 41)], side="right"),
    ]  # fmt: skip


def specs() -> list[Spec]:
    """base: untied; shrunk: tied, at most two tiles' worth of cells."""
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    return [
        Spec("llava_onevision", "base", lambda: build("anyres_max_9", rope_parameters=rope), hub_config, cases, to_hub,
             files=split_processor(processor_files(processor()))),
        Spec("llava_onevision", "shrunk", lambda: build("anyres_max_2", tie_word_embeddings=True), hub_config,
             lambda: inputs.pick(cases("anyres_max_2"), "single", "video"), to_hub,
             files=split_processor(processor_files(processor("anyres_max_2")))),
    ]  # fmt: skip
