"""Pixtral: model_type llava with a Pixtral tower (conversions also say model_type pixtral at the top).

For the implementer:
- published names: `language_model.model.*`, `language_model.lm_head.weight`,
  `vision_tower.{patch_conv,ln_pre,transformer.layers}.*`, `multi_modal_projector.linear_{1,2}.*`; save_pretrained
  5.23 writes the same.
- pictures of any aspect; pixel_values are padded to the largest [pictures, 3, h, w] and image_sizes (after resizing)
  tell what is real; all pictures run as ONE sequence, each attending to itself only.
- 2-D rotary positions: of the tower's head_dim / 2 frequencies theta ** -(2i / head_dim), even i go with rows and odd
  i with columns, the pair (rows, columns) repeated for the second half; rotate-half form. position = row *
  (image_size / patch) + column.
- RMS norms (eps 1e-5) and no biases in the tower; ln_pre before the blocks; gated MLP.
- the features are those of the last block (vision_feature_layer -1), nothing after it; strategy full.
- expansion: a row of patches is [IMG] * w then [IMG_BREAK], the last one [IMG_END]; sizes are rounded UP to patches.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.pixtral import PixtralImageProcessorPil, PixtralProcessor

from families.llava import text_config

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for block in message['content'] %}"
    "{% if block['type'] == 'text' %}{{ block['text'] }}{% elif block['type'] == 'image' %}{{ '[IMG]' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '[/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def processor(merge: int = 1) -> PixtralProcessor:
    """The reference processor: up to 32 pixels a side, patches of 4."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    side = 4 * merge
    pictures = PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size={"height": side, "width": side})
    return PixtralProcessor(pictures, tokenizer, patch_size=4, spatial_merge_size=merge, chat_template=TEMPLATE)


def vision(**changes: Any) -> dict[str, Any]:
    """A tiny tower."""
    small = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {"model_type": "pixtral", **small, "image_size": 32, "patch_size": 4, "hidden_act": "silu", **changes}


def build(vision_config: dict[str, Any], **text: Any) -> LlavaForConditionalGeneration:
    """A tiny model."""
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config("mistral", vocab_size=112, pad_token_id=99, head_dim=16, **text),
        image_token_index=100,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    config._attn_implementation = "eager"
    return LlavaForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As mistral-community/pixtral-12b publishes it."""
    config = published(config, "4.46.0.dev0")
    return config | {key: thin(rope_to_hub(config[key])) for key in ("text_config", "vision_config")}


def cases(merge: int = 1) -> list[CaseSpec]:
    """Wide, tall and tiny pictures; padded rows."""
    long = "".join(f"item {i}, " for i in range(5))
    mixed = ["[INST][IMG]What?[/INST]", "[INST]Say hello.[/INST]", "[INST][IMG]Or[IMG]?[/INST]"]

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(merge), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<s>[INST]Name it.[IMG][/INST]"], pictures=[(30, 42)]),
        case("multi", ["<s>[INST][IMG]and[IMG]?[/INST]"], pictures=[(9, 25), (50, 13)]),
        case("text", ["<s>[INST]Say hello.[/INST]"], notes="no media"),
        case("long", [f"<s>{long}[IMG]{long}"], pictures=[(7, 11)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (5, 25)]),
        case("batch_right", mixed, pictures=[(24, 32), (16, 16), (5, 25)], side="right"),
    ]


def specs() -> list[Spec]:
    """base: no sliding window; gelu: other activation and rope bases."""
    files = split_processor(processor_files(processor()))
    other = vision(
        hidden_act="gelu", rope_parameters={"rope_type": "default", "rope_theta": 300.0}, num_attention_heads=4
    )
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    return [
        Spec("pixtral", "base", lambda: build(vision(), sliding_window=None, rope_parameters=rope), hub_config, cases,
             files=files),
        Spec("pixtral", "gelu", lambda: build(other, sliding_window=20), hub_config,
             lambda: inputs.pick(cases(), "multi"), files=files),
    ]  # fmt: skip
