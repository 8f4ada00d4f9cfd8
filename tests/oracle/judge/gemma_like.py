"""Variants: Gemma and PaliGemma."""

from __future__ import annotations

from typing import Any

from parts import LINEAR, LLAMA3, PLAIN, YARN
from variant import Variant


def gemma() -> list[Variant]:
    def one(family: str, name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant(family, name, changes, **rest)

    plain = ("single", "multi", "text", "long", "batch_left", "batch_right")

    def ropes(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
        return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}

    return [
        one("gemma3", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "gemma3",
            "gqa1",
            {
                "text_config": {
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "head_dim": 20,
                    "sliding_window": 5,
                    "query_pre_attn_scalar": 31,
                    "rms_norm_eps": 1e-3,
                }
            },
            cases=plain,
        ),
        one(
            "gemma3",
            "untied",
            {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": False, "attention_bias": True}},
            cases=plain,
            hub=False,
        ),
        one("gemma3", "llama3", {"text_config": ropes(LLAMA3, PLAIN)}, cases=("single", "long"), hub=False),
        one("gemma3", "yarn", {"text_config": ropes(YARN, LINEAR)}, cases=("single", "long"), hub=False),
        one(
            "gemma3",
            "all_full",
            {"text_config": {"layer_types": ["full_attention"] * 3, "hidden_activation": "gelu"}},
            cases=("single", "long"),
            hub=False,
        ),
        one(
            "gemma3",
            "bidirectional",
            {"text_config": {"use_bidirectional_attention": True}},
            cases=("single",),
            hub=False,
            refuses="use_bidirectional_attention",
        ),
        one(
            "gemma3",
            "pool",
            {"vision_config": {"num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-3}},
            cases=plain,
        ),
        one("paligemma", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "paligemma",
            "heads",
            {
                "text_config": {
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "head_dim": 12,
                    "rope_parameters": PLAIN,
                    "rms_norm_eps": 1e-3,
                },
                "vision_config": {"num_attention_heads": 4, "hidden_act": "gelu"},
            },
        ),
        one("paligemma", "linear", {"text_config": {"rope_parameters": LINEAR, "num_hidden_layers": 1}}),
        one(
            "paligemma",
            "gemma2_more",
            {
                "text_config": {
                    "num_attention_heads": 6,
                    "num_key_value_heads": 3,
                    "head_dim": 10,
                    "sliding_window": 6,
                    "attn_logit_softcapping": None,
                    "final_logit_softcapping": 5.0,
                    "query_pre_attn_scalar": 7,
                }
            },
            base="gemma2",
        ),
        one(
            "paligemma",
            "gemma2_caps",
            {
                "text_config": {
                    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
                    "attn_logit_softcapping": 1.0,
                    "final_logit_softcapping": None,
                }
            },
            base="gemma2",
            hub=False,
        ),
        one(
            "paligemma",
            "untied",
            {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": False}},
            cases=("single", "batch_left"),
            hub=False,
        ),
        one(
            "gemma4",
            "untied",
            {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": False}},
            cases=("text",),
            hub=False,
            refuses="tie_word_embeddings",
        ),
        one("gemma4", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "gemma4",
            "gqa1",
            {
                "text_config": {
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "sliding_window": 7,
                    "final_logit_softcapping": None,
                    "rms_norm_eps": 1e-3,
                },
                "vision_config": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8},
            },
            cases=("single", "multi", "text", "video", "batch_left"),
        ),
        one(
            "gemma4",
            "causal",
            {"text_config": {"use_bidirectional_attention": None, "attention_k_eq_v": False}},
            cases=("single", "batch_left"),
            hub=False,
        ),
        one(
            "gemma4",
            "moe_top1",
            {"text_config": {"top_k_experts": 1, "num_experts": 3}},
            base="moe",
            cases=("single", "text"),
        ),
        one(
            "gemma4",
            "e_more",
            {
                "text_config": {
                    "num_kv_shared_layers": 0,
                    "use_double_wide_mlp": False,
                    "hidden_size_per_layer_input": 12,
                }
            },
            base="e",
            cases=("single", "audio", "batch_left"),
        ),
        one(
            "gemma4",
            "e_audio",
            {
                "audio_config": {
                    "num_hidden_layers": 1,
                    "attention_chunk_size": 6,
                    "attention_context_left": 7,
                    "num_attention_heads": 4,
                }
            },
            base="e",
            cases=("audio", "audio_and_image"),
        ),
        one(
            "gemma4",
            "rope",
            {
                "text_config": {
                    "rope_parameters": {
                        "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
                        "full_attention": {
                            "rope_type": "proportional",
                            "partial_rotary_factor": 0.5,
                            "rope_theta": 700.0,
                        },
                    }
                }
            },
            cases=("single", "text"),
        ),
        one("gemma4_unified", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "gemma4_unified",
            "heads",
            {
                "text_config": {
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "sliding_window": 9,
                    "final_logit_softcapping": 4.0,
                },
                "vision_config": {"mm_embed_dim": 28, "output_proj_dims": 28},
            },
        ),
    ]
