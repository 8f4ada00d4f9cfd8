"""LLaVA-NeXT 1.6 (Mistral, Vicuna, 34b) and Granite Vision 3.2.

For the implementer:
- names as LLaVA, plus `image_newline`, published at the top level (`memory`: `model.image_newline`).
- a picture is encoded as [thumbnail, tiles...]; the best grid is chosen by (height, width) pinpoints; tiles are laid
  out as one map, the padding is cut away by the ORIGINAL aspect ratio (new side = int(round(side * scale, 7)),
  padding = rest // 2 on both sides), a newline feature ends every row, and the thumbnail's features come FIRST.
- pixel_values are padded to the largest number of tiles in the batch: [pictures, tiles, 3, side, side]; the number
  that counts comes from image_sizes (original height, width) and the pinpoints.
- Granite Vision: SigLIP tower, `vision_feature_layer` a list such as [-24, -20, -12, -1], joined on the feature axis
  in that order, strategy `full`; Granite text: embedding_multiplier, residual_multiplier, attention_multiplier (in
  place of 1/sqrt(d)), logits_scaling (logits are DIVIDED by it). Published it has use_image_newline_parameter and
  tie_word_embeddings true.
- SigLIP's tower there has no head (`vision_use_head` false).
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next import LlavaNextImageProcessorPil, LlavaNextProcessor

from families.llava import SPECIAL, TEMPLATE, text_config, to_hub, vision_config

PINPOINTS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]


def processor(strategy: str = "default", **changes: Any) -> LlavaNextProcessor:
    """The reference processor: tiles of 16 pixels, patches of 4."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=PINPOINTS, **changes
    )
    extra = 1 if strategy == "default" else 0
    return LlavaNextProcessor(pictures, tokenizer, 4, strategy, TEMPLATE, num_additional_image_tokens=extra)


def build(text: dict[str, Any], vision: dict[str, Any], **changes: Any) -> LlavaNextForConditionalGeneration:
    """A tiny model."""
    tower = {**vision, "image_size": 16, "patch_size": 4}
    config = LlavaNextConfig(
        vision_config=tower, text_config=text, image_token_index=99, image_grid_pinpoints=PINPOINTS, **changes
    )
    config._attn_implementation = "eager"
    return LlavaNextForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As llava-hf and ibm-granite publish it."""
    config = published(config, "4.39.0")
    text = thin(rope_to_hub(config["text_config"]))
    vision = thin(config["vision_config"])
    return config | {"text_config": text, "vision_config": vision, "use_image_newline_parameter": True}


def cases(strategy: str = "default", **changes: Any) -> list[CaseSpec]:
    """Wide, tall, square and tiny pictures, several tiles; padded rows."""
    long = "".join(f"item {i}, " for i in range(4))
    mixed = ["<image>\nWhat?", "Say hello.", "<image>\nOr <image>\n?"]

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(strategy, **changes), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<s>[INST] <image>\nName it. [/INST]"], pictures=[(30, 42)]),
        case("multi", ["<s><image>\nand <image>\n?"], pictures=[(19, 45), (50, 13)]),
        case("text", ["<s>[INST] Say hello. [/INST]"], notes="no media"),
        case("long", [f"<s>{long}<image>{long}"], pictures=[(7, 11)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
        case("batch_right", mixed, pictures=[(24, 32), (16, 16), (9, 41)], side="right"),
    ]


def specs() -> list[Spec]:
    """mistral: sliding window; vicuna: Llama, untied; granite: SigLIP, four layers, Granite's multipliers."""
    mistral = text_config("mistral", sliding_window=24, rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    vicuna = text_config("llama", num_key_value_heads=4, rms_norm_eps=1e-5)
    granite = text_config("granite", tie_word_embeddings=True, embedding_multiplier=7.0, residual_multiplier=0.3,
                          attention_multiplier=0.11, logits_scaling=4.0, rms_norm_eps=1e-5)  # fmt: skip
    siglip = vision_config("siglip_vision_model", vision_use_head=False, num_hidden_layers=4)
    several = {"vision_feature_layer": [-4, -3, -1], "vision_feature_select_strategy": "full"}
    several["tie_word_embeddings"] = True
    clip = vision_config("clip_vision_model")
    plain = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    return [
        Spec("llava_next", "mistral", lambda: build(mistral, clip), hub_config, cases, to_hub,
             files=split_processor(processor_files(processor()))),
        Spec("llava_next", "vicuna", lambda: build(vicuna, clip), hub_config,
             lambda: inputs.pick(cases(), "single"), to_hub, files=split_processor(processor_files(processor()))),
        Spec("llava_next", "granite", lambda: build(granite, siglip, **several), hub_config,
             lambda: inputs.pick(cases("full", **plain), "single", "multi", "batch_left"), to_hub,
             files=split_processor(processor_files(processor("full", **plain)))),
    ]  # fmt: skip
