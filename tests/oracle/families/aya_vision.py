"""Aya Vision (SigLIP + Cohere2).

For the implementer:
- names as LLaVA; `multi_modal_projector.{layernorm,linear_1,linear_2}`. The gate is the SECOND half of linear_1's
  output.
- logits are NOT multiplied by the text's logit_scale.
- pictures through GOT-OCR 2's processor with crop_to_patches on, whatever the file says; pixel_values hold the tiles
  of all pictures one after another and do not say which belong together. Tiles count from 1, the whole picture comes
  last as TILE_GLOBAL.
- Cohere2: LayerNorm without bias, attention and MLP in parallel, rotary positions (interleaved pairs) only in sliding
  layers; published configurations have `sliding_window_pattern` in place of layer_types.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration
from transformers.models.aya_vision import AyaVisionProcessor
from transformers.models.got_ocr2 import GotOcr2ImageProcessorPil

from families.llava import TEMPLATE, text_config, to_hub, vision_config

SPECIAL = ["<s>", "</s>", "<unk>", "<image>", "<pad>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>"]
SPECIAL += ["<|IMG_LINE_BREAK|>", *[f"TILE_{index}" for index in range(1, 7)], "TILE_GLOBAL"]


def processor() -> AyaVisionProcessor:
    """The reference processor: up to 6 tiles of 16 pixels, 4 tokens each."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    pictures = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=6)
    return AyaVisionProcessor(
        pictures, tokenizer, patch_size=4, img_size=16, downsample_factor=2, chat_template=TEMPLATE
    )


def build(*, tied: bool, **text: Any) -> AyaVisionForConditionalGeneration:
    """A tiny model."""
    values = {
        "vocab_size": 120,
        "num_hidden_layers": 5,
        "logit_scale": 0.25,
        "sliding_window": 12,
        "layer_norm_eps": 1e-4,
    }
    config = AyaVisionConfig(
        vision_config=vision_config("siglip_vision_model", vision_use_head=False, image_size=16, patch_size=4),
        text_config=text_config("cohere2", **values, **text),
        image_token_index=103,
        downsample_factor=2,
        tie_word_embeddings=tied,
        alignment_intermediate_size=40,
    )
    config._attn_implementation = "eager"
    return AyaVisionForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As CohereLabs/aya-vision-8b publishes it."""
    config = published(config, "4.50.0.dev0")
    text = thin(rope_to_hub(config["text_config"])) | {"model_type": "cohere2"}
    if text.get("layer_types") == (["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"]):
        text["sliding_window_pattern"] = 4
        del text["layer_types"]
    return config | {"text_config": text, "vision_config": thin(config["vision_config"])}


def cases() -> list[CaseSpec]:
    """Canvases of several shapes; padded rows."""
    mixed = ["<image>\nWhat?", "Say hello.", "<image>\nOr <image>\n?"]
    long = "".join(f"item {i}, " for i in range(4))

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<s><image>\nName it."], pictures=[(30, 42)]),
        case("multi", ["<s><image>\nand <image>\n?"], pictures=[(19, 45), (50, 13)]),
        case("text", ["Say hello."], notes="no media"),
        case("long", [f"<s>{long}<image>{long}"], pictures=[(7, 11)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
        case("batch_right", mixed, pictures=[(24, 32), (16, 16), (9, 41)], side="right"),
    ]


def specs() -> list[Spec]:
    """base: tied, three of four layers windowed; untied: biases, layers of kinds by list."""
    files = split_processor(processor_files(processor()))
    kinds = ["sliding_attention", "full_attention"] * 2 + ["full_attention"]
    return [
        Spec("aya_vision", "base", lambda: build(tied=True), hub_config, cases, to_hub, files=files),
        Spec("aya_vision", "untied", lambda: build(tied=False, attention_bias=True, layer_types=kinds), hub_config,
             lambda: inputs.pick(cases(), "single"), to_hub, files=files),
    ]  # fmt: skip
