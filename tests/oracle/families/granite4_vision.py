"""Granite 4.0 Vision.

For the implementer:
- names are the model's own in both layouts here (`model.vision_tower.*`, `model.language_model.*`,
  `model.layerwise_projectors.*`, `model.spatial_projectors.*`, `model.image_newline`, `lm_head.weight`); the
  reference registers no other published layout. save_pretrained 5.23 may differ in the SigLIP prefix: see the
  layouts.
- pictures as LLaVA-NeXT (thumbnail first, unpad, newline per row) with the number of features a side times
  downsample_rate.
- deepstack_layer_map: [vision layer, text layer] pairs; every pair has a Window Q-Former of its own (window_side x
  window_side features to query_side x query_side queries; queries = learned + area-downsampled features; image
  positions added to keys), whose output is ADDED to the hidden states at picture positions before that text layer.
  Embeddings at picture positions are zero at first: everything comes through the stack.
- spatial_target_layers: four more projectors on spatial_vision_layer, whose queries sample one of the four offsets
  (0,0), (0,1), (1,0), (1,1) of each 2 x 2 block.
- Q-Former: BLIP-2's, one layer, exact gelu, LayerNorm eps 1e-12, heads = width / 64.
- text: Granite (embedding, residual, attention multipliers; logits divided by logits_scaling).
"""

from __future__ import annotations

from typing import Any

import inputs
import torch
from hub import published, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Granite4VisionConfig, Granite4VisionForConditionalGeneration
from transformers.models.granite4_vision import Granite4VisionProcessor
from transformers.models.llava_next import LlavaNextImageProcessorPil

from families.llava import SPECIAL, TEMPLATE, text_config, vision_config

PINPOINTS = [[16, 32], [32, 16], [32, 32]]


def processor() -> Granite4VisionProcessor:
    """The reference processor: tiles of 16 pixels, patches of 2, rate 1/2."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    half = [0.5, 0.5, 0.5]
    pictures = LlavaNextImageProcessorPil(
        size={"height": 16, "width": 16},
        crop_size={"height": 16, "width": 16},
        image_grid_pinpoints=PINPOINTS,
        image_mean=half,
        image_std=half,
        do_center_crop=False,
    )
    return Granite4VisionProcessor(pictures, tokenizer, 2, "full", TEMPLATE, downsample_rate="2/4")


def build() -> Granite4VisionForConditionalGeneration:
    """A tiny model."""
    text = text_config("granite4_vision_text", rms_norm_eps=1e-5, num_hidden_layers=4, embedding_multiplier=7.0)
    text |= {"residual_multiplier": 0.3, "attention_multiplier": 0.11, "logits_scaling": 4.0}
    tower = vision_config("siglip_vision_model", vision_use_head=False, hidden_size=128, intermediate_size=48)
    config = Granite4VisionConfig(
        vision_config=tower | {"image_size": 16, "patch_size": 2},
        text_config=text,
        image_token_index=99,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_grid_pinpoints=PINPOINTS,
        downsample_rate="2/4",
        deepstack_layer_map=[[-1, 0], [-3, 2]],
        spatial_vision_layer=-2,
        spatial_target_layers=[0, 1, 2, 3],
        qformer_config={
            "model_type": "blip_2_qformer",
            "intermediate_size": 40,
            "num_hidden_layers": 1,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": False,
        },
        tie_word_embeddings=True,
    )
    config._attn_implementation = "eager"
    return Granite4VisionForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As transformers writes it."""
    return published(config, "5.6.0")


def extras(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What is added at each text layer, [layers, tokens, width], and the layers' numbers."""
    if "pixel_values" not in given:
        return {}
    result = model.model.get_image_features(given["pixel_values"], given["image_sizes"])
    stack = result.deepstack_features
    return {
        "image_deepstack": torch.stack([torch.cat(list(parts)) for _, parts in stack]),
        "deepstack_layers": torch.tensor([layer for layer, _ in stack]),
    }


def cases() -> list[CaseSpec]:
    """As LLaVA-NeXT."""
    long = "".join(f"item {i}, " for i in range(4))
    mixed = ["<image>\nWhat?", "Say hello.", "<image>\nOr <image>\n?"]

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=extras, **media)

    return [
        case("single", ["<s><image>\nName it."], pictures=[(30, 42)]),
        case("multi", ["<s><image>\nand <image>\n?"], pictures=[(19, 45), (50, 13)]),
        case("text", ["<s>Say hello."], notes="no media"),
        case("long", [f"<s>{long}<image>{long}"], pictures=[(7, 11)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(9, 32), (16, 16), (41, 9)]),
    ]


def specs() -> list[Spec]:
    """base."""
    files = split_processor(processor_files(processor()))
    return [Spec("granite4_vision", "base", build, hub_config, cases, files=files)]
