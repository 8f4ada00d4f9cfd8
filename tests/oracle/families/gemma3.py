"""Gemma 3.

For the implementer:
- published names: `language_model.model.*`, `vision_tower.vision_model.*`,
  `multi_modal_projector.mm_input_projection_weight`, `multi_modal_projector.mm_soft_emb_norm.weight`; save_pretrained
  5.23 drops the tower's inner `vision_model.`.
- every norm of text and projector multiplies by (1 + weight); SigLIP's LayerNorms do not.
- embeddings are scaled by sqrt(hidden); picture features are NOT scaled.
- projector: average pooling of the patch map to sqrt(mm_tokens_per_image) a side, norm, then x @
  mm_input_projection_weight ([vision width, text width], not transposed).
- the tower's output passes post_layernorm (last hidden state, no feature layer choice); no head.
- a picture's own tokens see each other in both directions, on full AND on sliding layers (there, the picture's block
  is or-ed with the sliding causal mask: the block may reach beyond the window); token_type_ids 1 marks them; begin
  and end of image are text. Neighbouring pictures are separate blocks (a begin/end token always stands between).
- attention scale is query_pre_attn_scalar ** -0.5; q and k normed per head; two rope bases: full layers rope_theta
  with rope_scaling, sliding layers rope_local_base_freq without.
- published text_config: rope_scaling, sliding_window, maybe sliding_window_pattern (default 6), no layer_types;
  attention heads and other values equal to the class's defaults are missing.
- the processor puts "\\n\\n" + boi + 256 image tokens + eoi + "\\n\\n" in the place of boi; pan and scan gives a
  sentence with several pictures.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import published, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.models.gemma3 import Gemma3ImageProcessorPil, Gemma3Processor

from families.llava import to_hub, vision_config

SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"]
SPECIAL += ["<image_soft_token>"]
IMAGE = "<start_of_image>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def processor() -> Gemma3Processor:
    """The reference processor: 24 pixels a side, 9 tokens a picture."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = character_tokenizer(
        SPECIAL, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=names
    )
    pictures = Gemma3ImageProcessorPil(size={"height": 24, "width": 24})
    return Gemma3Processor(pictures, tokenizer, TEMPLATE, image_seq_length=9)


def build(**text: Any) -> Gemma3ForConditionalGeneration:
    """A tiny model."""
    config = Gemma3Config(
        text_config={
            "model_type": "gemma3_text",
            "vocab_size": 112,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "query_pre_attn_scalar": 20,
            "sliding_window": 14,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "bos_token_id": 98,
            "eos_token_id": 97,
            "pad_token_id": 96,
            **text,
        },
        vision_config=vision_config("siglip_vision_model", vision_use_head=False, patch_size=4),
        mm_tokens_per_image=9,
        boi_token_index=101,
        eoi_token_index=102,
        image_token_index=103,
    )
    config._attn_implementation = "eager"
    return Gemma3ForConditionalGeneration(config)


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Norms about zero where the family adds one."""
    return (0.0, 0.3) if name.endswith("norm.weight") and "vision_tower" not in name else None


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As google/gemma-3-*-it publish it."""
    config = published(config, "4.50.0.dev0")
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"], text["rope_local_base_freq"] = (
        rope[k]["rope_theta"] for k in ("full_attention", "sliding_attention")
    )
    scaling = {k: v for k, v in rope["full_attention"].items() if k != "rope_theta"}
    if scaling != {"rope_type": "default"}:
        text["rope_scaling"] = scaling
    text["sliding_window_pattern"] = text.pop("layer_types").index("full_attention") + 1
    text = thin(text)
    if text["rope_theta"] == 1_000_000.0:
        del text["rope_theta"], text["rope_local_base_freq"]
    return config | {"text_config": text, "vision_config": thin(config["vision_config"]), "eos_token_id": [97, 100]}


def turn(content: str) -> str:
    """One user turn, open for the answer."""
    return f"<bos><start_of_turn>user\n{content}<end_of_turn>\n<start_of_turn>model\n"


def cases() -> list[CaseSpec]:
    """Pictures longer than the sliding window; crops."""
    mixed = [turn(f"{IMAGE}What?"), turn("Say hello."), turn(f"{IMAGE}Or {IMAGE}?")]
    long = "".join(f"item {i}, " for i in range(4))
    crops = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 10, "pan_and_scan_max_num_crops": 3,
             "pan_and_scan_min_ratio_to_activate": 1.2}  # fmt: skip

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, drop=("num_crops",), **media)

    return [
        case("single", [turn(f"{IMAGE}Name it.")], pictures=[[(30, 42)]]),
        case("multi", [turn(f"{IMAGE}{IMAGE}Same?")], pictures=[[(19, 45), (50, 13)]]),
        case("pan_and_scan", [f"<bos>{IMAGE}"], pictures=[[(24, 60)]], arguments=crops, notes="two crops"),
        case("text", [turn("Say hello.")], notes="no media"),
        case("long", [f"<bos>{long}{IMAGE}{long}"], pictures=[[(7, 11)]], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[[(24, 32)], [], [(16, 16), (9, 41)]]),
        case("batch_right", mixed, pictures=[[(24, 32)], [], [(16, 16), (9, 41)]], side="right"),
    ]


def specs() -> list[Spec]:
    """base: rope scaling on full layers; wide: other head count, soft caps, one key head."""
    files = split_processor(processor_files(processor()))
    scaled = {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
                                  "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}}  # fmt: skip
    other = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 700.0},
                                 "sliding_attention": {"rope_type": "default", "rope_theta": 90.0}},
             "num_key_value_heads": 1, "num_attention_heads": 3, "attn_logit_softcapping": 3.0,
             "final_logit_softcapping": 2.0,
             "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}  # fmt: skip
    return [
        Spec("gemma3", "base", lambda: build(**scaled), hub_config, cases, to_hub, spread, files),
        Spec("gemma3", "capped", lambda: build(**other), hub_config, lambda: inputs.pick(cases(), "multi", "long"),
             to_hub, spread, files),
    ]  # fmt: skip
