"""PaliGemma 1 (Gemma) and 2 (Gemma 2).

For the implementer:
- published names as LLaVA's: `language_model.model.*`, `vision_tower.vision_model.*`,
  `multi_modal_projector.linear.*`; tied head.
- positions start at ONE.
- the whole prompt (token_type_ids 0: pictures and prefix) is one block that sees itself in both directions; only the
  answer is causal. On Gemma 2's sliding layers too: the block overrides the window.
- picture features come from the tower's last hidden state (after post_layernorm, no head), through one linear layer;
  the reference does NOT divide them by sqrt(hidden) here; text embeddings are scaled by sqrt(hidden). See
  `image_features`.
- norms multiply by (1 + weight). Gemma 2: two more norms a layer, soft caps on attention scores (50) and logits (30),
  attention scale query_pre_attn_scalar ** -0.5, sliding window on even layers.
- the processor makes `<image>` * n + `<bos>` + prompt + "\\n"; rows are padded to the LEFT in published checkpoints.
- published text_config lacks what equals the defaults (head_dim 256, rope_theta, rms_norm_eps, hidden_act);
  `hidden_activation` may be missing or null: the activation is gelu_pytorch_tanh.
- the text-only case has no processor output (the reference's processor refuses it); its token_type_ids are zero.
"""

from __future__ import annotations

from typing import Any

import inputs
import torch
from hub import published, rope_to_hub, split_processor, thin
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration
from transformers.models.paligemma import PaliGemmaProcessor
from transformers.models.siglip import SiglipImageProcessorPil

from families.gemma3 import spread
from families.llava import to_hub, vision_config

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<image>"]


def processor() -> PaliGemmaProcessor:
    """The reference processor: 24 pixels a side, 9 tokens a picture."""
    tokenizer = character_tokenizer(
        SPECIAL,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    pictures = SiglipImageProcessorPil(size={"height": 24, "width": 24}, image_seq_length=9)
    return PaliGemmaProcessor(pictures, tokenizer)


def build(**text: Any) -> PaliGemmaForConditionalGeneration:
    """A tiny model."""
    config = PaliGemmaConfig(
        text_config={
            "vocab_size": 108,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "bos_token_id": 98,
            "eos_token_id": 97,
            "pad_token_id": 96,
            **text,
        },
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        image_token_index=100,
        vocab_size=108,
        projection_dim=48,
        hidden_size=48,
    )
    config._attn_implementation = "eager"
    return PaliGemmaForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As google/paligemma* publish it."""
    config = published(config, "4.41.0.dev0")
    text = thin(rope_to_hub(config["text_config"]))
    for key in ("layer_types", "use_bidirectional_attention", "hidden_act"):
        text.pop(key, None)
    vision = thin(config["vision_config"]) | {"num_image_tokens": 9, "projector_hidden_act": "gelu_fast"}
    config.pop("tie_word_embeddings", None)
    return config | {"text_config": text, "vision_config": vision, "bos_token_id": 98, "eos_token_id": 97}


def text_only() -> CaseSpec:
    """A prompt without picture, whose tokens are written by hand."""
    ids = torch.tensor([[98, *range(40, 52), 95]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return CaseSpec("text", given, "no media")


def cases() -> list[CaseSpec]:
    """Prefixes longer than the window, several pictures, padded rows."""
    long = "".join(f"item {i}, " for i in range(6))

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        return inputs.build(processor(), name, text, extras=inputs.features, drop=("labels",), **media)

    with_answer = case(
        "answer", ["<image>caption en"], pictures=[(30, 42)], notes="the last 8 tokens are an answer: causal"
    )
    answer = torch.arange(50, 58)[None]
    for key, tail in (
        ("input_ids", answer),
        ("attention_mask", torch.ones_like(answer)),
        ("token_type_ids", torch.ones_like(answer)),
    ):
        with_answer.inputs[key] = torch.cat([with_answer.inputs[key], tail], dim=1)
    with_answer.text = []
    return [
        case("single", ["<image>caption en"], pictures=[(30, 42)]),
        case("multi", ["<image><image>which is red"], pictures=[[(19, 45), (50, 13)]]),
        with_answer,
        text_only(),
        case("long", [f"<image>{long}"], pictures=[(7, 11)], notes="one indivisible block"),
        case("batch_left", ["<image>what", "<image>describe it"], pictures=[(24, 32), (9, 41)]),
        case("batch_right", ["<image>what", "<image>describe it"], pictures=[(24, 32), (9, 41)], side="right"),
    ]


def files() -> dict[str, dict[str, Any]]:
    """Without the thousand location tokens that the processor adds."""
    return split_processor(processor_files(processor(), vocabulary=108))


def specs() -> list[Spec]:
    """gemma: PaliGemma 1; gemma2: PaliGemma 2."""
    second = {"model_type": "gemma2", "query_pre_attn_scalar": 20, "sliding_window": 10, "num_key_value_heads": 2}
    second |= {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, "num_hidden_layers": 3}
    return [
        Spec("paligemma", "gemma", lambda: build(model_type="gemma"), hub_config, cases, to_hub, spread, files()),
        Spec("paligemma", "gemma2", lambda: build(**second), hub_config,
             lambda: inputs.pick(cases(), "multi", "long", "answer", "batch_left"), to_hub, spread, files()),
    ]  # fmt: skip
