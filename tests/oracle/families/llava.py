"""LLaVA 1.5 and its kin (CLIP + Llama or Mistral, SigLIP + Qwen2).

For the implementer:
- three layouts occur: published `language_model.model.*`, `language_model.lm_head.*`, `vision_tower.vision_model.*`,
  `multi_modal_projector.*`; save_pretrained 5.23 writes the same but the tower without the inner `vision_model.`;
  `memory` has `model.language_model.*`, `model.vision_tower.*`, `lm_head.*`.
- `vision_feature_layer` counts hidden states with the embeddings as number 0, so -2 is the output of the last block
  but one; neither it nor -1 passes through the tower's final norm (CLIP: post_layernorm). A list joins the layers on
  the feature axis.
- strategy `default` drops the first token (CLIP's class token), `full` keeps all (a projected class token, too).
- the tower's unused last blocks and post_layernorm are in the checkpoint, and must load.
- published text_config holds only what differs from the class's defaults (so rope_theta, rms_norm_eps... may be
  missing).
- CLIP's activation is quick_gelu (x * sigmoid(1.702 x)), the projector's `gelu` is the exact one.
- published processors expect `num_additional_image_tokens` 1 for CLIP; old ones lack it, and count 576 tokens all the
  same.
"""

from __future__ import annotations

from typing import Any

import inputs
from hub import add_prefix, published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.llava import LlavaProcessor
from transformers.models.siglip import SiglipImageProcessorPil

SPECIAL = ["<s>", "</s>", "<unk>", "<image>", "<pad>"]
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def processor(*, siglip: bool = False, strategy: str = "default") -> LlavaProcessor:
    """The reference processor: 24 pixels a side, patches of 8."""
    tokenizer = character_tokenizer(SPECIAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    if siglip:
        pictures = SiglipImageProcessorPil(size={"height": 24, "width": 24})
    else:
        pictures = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy=strategy,
        chat_template=TEMPLATE,
        num_additional_image_tokens=0 if siglip else 1,
    )


def text_config(kind: str, **changes: Any) -> dict[str, Any]:
    """A tiny text backbone with everything away from its defaults."""
    return {
        "model_type": kind,
        "vocab_size": 104,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 96,
        "eos_token_id": 97,
        "pad_token_id": 100,
        **changes,
    }


def vision_config(kind: str, **changes: Any) -> dict[str, Any]:
    """A tiny tower."""
    return {
        "model_type": kind,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
        **changes,
    }


def build(text: dict[str, Any], vision: dict[str, Any], **changes: Any) -> LlavaForConditionalGeneration:
    """A tiny model."""
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=99, image_seq_length=9, **changes)
    config._attn_implementation = "eager"
    return LlavaForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As llava-hf publishes it: thin parts, older rope keys."""
    config = published(config, "4.36.0")
    text = thin(rope_to_hub(config["text_config"]))
    return config | {"text_config": text, "vision_config": thin(config["vision_config"]), "ignore_index": -100}


def to_hub(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tower's inner prefix."""
    return add_prefix(tensors, "vision_tower.", "vision_tower.vision_model.")


def cases(**options: Any) -> list[CaseSpec]:
    """One, several, odd and no pictures; padded rows."""
    long = "".join(f"item {i}, " for i in range(5))
    mixed = [
        "USER: <image>\nWhat? ASSISTANT:",
        "USER: Say hello. ASSISTANT:",
        "USER: <image>\nOr <image>\n? ASSISTANT:",
    ]

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(**options), name, text, extras=inputs.features, **media)

    return [
        case("single", ["<s>USER: <image>\nName it. ASSISTANT:"], pictures=[(24, 24)]),
        case("multi", ["<s>USER: <image>\nand <image>\n? ASSISTANT:"], pictures=[(19, 45), (50, 13)]),
        case("text", ["<s>USER: Say hello. ASSISTANT:"], notes="no media"),
        case("long", [f"<s>{long}<image>{long}"], pictures=[(33, 40)], notes="for chunked prefill"),
        case("batch_left", mixed, pictures=[(24, 32), (16, 16), (9, 41)]),
        case("batch_right", mixed, pictures=[(24, 32), (16, 16), (9, 41)], side="right"),
    ]


def specs() -> list[Spec]:
    """base: CLIP + Llama; mistral: several feature layers, class token kept, sliding window; siglip: SigLIP + tied Qwen2."""
    llama = text_config("llama", rope_parameters={"rope_type": "default", "rope_theta": 700.0}, rms_norm_eps=1e-5)
    mistral = text_config("mistral", sliding_window=20, head_dim=16, num_hidden_layers=3)
    qwen2 = text_config("qwen2", tie_word_embeddings=True, num_key_value_heads=1)
    several = {"vision_feature_layer": [-3, -1], "vision_feature_select_strategy": "full"}
    several |= {"projector_hidden_act": "relu", "multimodal_projector_bias": False}
    siglip = vision_config("siglip_vision_model", vision_use_head=False)
    plain = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    return [
        Spec("llava", "base", lambda: build(llama, vision_config("clip_vision_model")), hub_config, cases, to_hub,
             files=split_processor(processor_files(processor()))),
        Spec("llava", "mistral", lambda: build(mistral, vision_config("clip_vision_model", hidden_act="gelu"), **several),
             hub_config, lambda: inputs.pick(cases(strategy="full"), "multi", "long"), to_hub,
             files=split_processor(processor_files(processor(strategy="full")))),
        Spec("llava", "siglip", lambda: build(qwen2, siglip, **plain), hub_config,
             lambda: inputs.pick(cases(siglip=True, strategy="full"), "multi", "batch_left"), to_hub,
             files=split_processor(processor_files(processor(siglip=True, strategy="full")))),
    ]  # fmt: skip
