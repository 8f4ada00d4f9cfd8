"""Florence-2.

For the implementer:
- layout `hub` is florence-community's (the model's own names, `model.vision_tower.*`,
  `model.multi_modal_projector.*`, `model.language_model.*`); layout `microsoft` is that of microsoft/Florence-2-*
  (remote code: `vision_tower.convs/blocks`, `image_projection` [in, out], `image_pos_embed`,
  `visual_temporal_embed.pos_idx_to_embed`, `language_model.model.*`, `language_model.final_logits_bias`), with a
  configuration of its own: no image token (the features stand before the text's embeddings), so one row of the
  vocabulary less than here: compare the first columns of the logits.
- logits are the DECODER's, at each of decoder_input_ids; the encoder sees [features, text]. Greedy tokens start from
  decoder_start_token_id 2.
- BART: learned positions with offset 2 in both, LayerNorm after the residual, embedding LayerNorm, exact gelu, no
  embedding scale; tied head and final_logits_bias (zero in checkpoints, not so here if it is stored).
- `visual_temporal_embed.pos_idx_to_embed` is stored: read it, do not recompute it (here it is no cosine table).
- tower: DaViT; each stage: strided convolution with LayerNorm before (patch_prenorm) or after, then blocks of
  [spatial (window attention), channel (groups)] each with depthwise 3 x 3 convolutions before attention and before
  the MLP; windows are padded; channel attention scales q by 1/sqrt(tokens).
- features: map + learned row/column positions (column in the first half of the width) + temporal cosine embedding of
  frame 0; tokens are [mean over the map, map...], projected without bias, LayerNorm.
- the processor replaces a task token by its sentence; prompt is image tokens + <s> + sentence + </s>.
"""

from __future__ import annotations

import re
from typing import Any

import inputs
import torch
from hub import published, split_processor
from maker import CaseSpec, Spec, processor_files
from tokenizer import character_tokenizer
from transformers import Florence2Config, Florence2ForConditionalGeneration
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.florence2 import Florence2Processor

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", *[f"<loc_{i}>" for i in range(8)], "system", "user", "assistant", "<image>"]


def processor() -> Florence2Processor:
    """The reference processor: 64 pixels a side, 5 tokens a picture."""
    tokenizer = character_tokenizer(
        SPECIAL,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": 64, "width": 64}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pictures = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, image_mean=mean, image_std=std, image_seq_length=5
    )
    return Florence2Processor(pictures, tokenizer)


def build() -> Florence2ForConditionalGeneration:
    """A tiny model."""
    config = Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": 112,
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 3,
            "encoder_ffn_dim": 56,
            "decoder_ffn_dim": 72,
            "max_position_embeddings": 128,
            "bos_token_id": 96,
            "pad_token_id": 97,
            "eos_token_id": 98,
            "decoder_start_token_id": 98,
            "forced_eos_token_id": None,
        },
        vision_config={
            "depths": [1, 1, 2, 1],
            "embed_dim": [16, 24, 32, 40],
            "num_heads": [2, 3, 4, 5],
            "num_groups": [2, 3, 4, 5],
            "window_size": 3,
            "mlp_ratio": 2.0,
            "projection_dim": 48,
            "max_position_embeddings": 8,
            "max_temporal_embeddings": 6,
        },
        image_token_id=111,
    )
    config._attn_implementation = "eager"
    return Florence2ForConditionalGeneration(config)


def hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """As florence-community publishes it."""
    return published(config, "4.56.0.dev0")


def microsoft_config(config: dict[str, Any]) -> dict[str, Any]:
    """As microsoft/Florence-2-* publish it."""
    vision, text = config["vision_config"], config["text_config"]
    names = (
        "drop_path_rate",
        "patch_size",
        "patch_stride",
        "patch_padding",
        "patch_prenorm",
        "num_heads",
        "num_groups",
    )
    names += ("depths", "window_size", "projection_dim")
    kept = {name: vision[name] for name in names}
    kept |= {
        "model_type": "davit",
        "dim_embed": vision["embed_dim"],
        "mlp_ratio": vision["mlp_ratio"],
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 6},
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 8},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "model_type": "florence2",
        "projection_dim": 48,
        "vocab_size": 111,
        "bos_token_id": 96,
        "pad_token_id": 97,
        "eos_token_id": 98,
        "ignore_index": -100,
        "is_encoder_decoder": True,
        "text_config": text | {"vocab_size": 111, "model_type": "florence2_language"},
        "vision_config": kept,
        "torch_dtype": "float16",
        "transformers_version": "4.41.0.dev0",
    }


RULES = (
    (r"^model\.vision_tower\.convs\.(\d+)\.conv\.", r"vision_tower.convs.\1.proj."),
    (r"^model\.vision_tower\.", "vision_tower."),
    (r"\.(conv[12])\.(weight|bias)$", r".\1.fn.dw.\2"),
    (r"\.norm1\.", ".ATTENTION.norm."),
    (r"\.norm2\.", ".ffn.norm."),
    (r"\.(window_attn|channel_attn)\.(qkv|proj)\.", r".\1.fn.\2."),
    (r"\.ffn\.(fc[12])\.", r".ffn.fn.net.\1."),
    (r"^model\.multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
    (r"^model\.multi_modal_projector\.image_proj_norm\.", "image_proj_norm."),
    (r"^model\.multi_modal_projector\.visual_temporal_embed\.", "visual_temporal_embed."),
    (r"^model\.language_model\.", "language_model.model."),
)


def to_microsoft(tensors: dict[str, Any]) -> dict[str, Any]:
    """The names of the original repository."""
    made = {}
    for name, tensor in tensors.items():
        if name == "model.multi_modal_projector.image_projection.weight":
            made["image_projection"] = tensor.T
            continue
        new = name
        for pattern, replacement in RULES:
            new = re.sub(pattern, replacement, new)
        kind = "window_attn" if ".spatial_block." in new else "channel_attn"
        new = new.replace("ATTENTION", kind)
        made[new] = tensor[:111] if "shared" in new or "embed_tokens" in new else tensor
    return made


def extras(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Projected features and what the encoder makes of them and the text."""
    found = inputs.features(model, given)
    encoder = {name: given[name] for name in ("input_ids", "attention_mask", "pixel_values") if name in given}
    result = model(**encoder, decoder_input_ids=given["decoder_input_ids"])
    return found | {"encoder_last_hidden_state": result.encoder_last_hidden_state}


def cases() -> list[CaseSpec]:
    """Tasks with and without words of their own; padded rows."""

    def case(name: str, text: list[str], **media: Any) -> CaseSpec:
        made = inputs.build(processor(), name, text, extras=extras, **media)
        rows = len(text)
        answer = torch.tensor([[98, 96, 40, 41, 0, 55, 60, 61, 102, 33]]).repeat(rows, 1)
        made.inputs["decoder_input_ids"] = (answer + torch.arange(rows)[:, None] * (answer > 98)).clamp(max=110)
        made.not_for_greedy = ("decoder_input_ids",)
        return made

    return [
        case("caption", ["<CAPTION>"], pictures=[(30, 42)]),
        case("grounding", ["<CAPTION_TO_PHRASE_GROUNDING>a red car"], pictures=[(50, 13)]),
        case(
            "batch_right",
            ["<OCR>", "<OD>"],
            pictures=[(24, 32), (41, 9)],
            side="right",
            notes="as published: padded right",
        ),
    ]


def specs() -> list[Spec]:
    """base."""
    return [
        Spec("florence2", "base", build, hub_config, cases, files=split_processor(processor_files(processor())),
             more={"microsoft": (to_microsoft, microsoft_config)}),
    ]  # fmt: skip
