"""Variants: InternVL, Aya, Granite 4 Vision, DeepSeek-OCR 2, Florence-2."""

from __future__ import annotations

from typing import Any

from parts import DYNAMIC, LINEAR, LLAMA3, PLAIN, YARN, text
from variant import Variant


def internvl() -> list[Variant]:
    def one(name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant("internvl", name, changes, **rest)

    return [
        one("initial", {}, initial=True, cases=("single", "video", "batch_left")),
        one("llama", {"text_config": text("llama", vocab_size=108, rope_parameters=LLAMA3, attention_bias=True)}),
        one("mistral", {"text_config": text("mistral", vocab_size=108, sliding_window=9)}),
        one(
            "qwen3",
            {
                "text_config": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 10},
                "tie_word_embeddings": False,
            },
            base="qwen3",
        ),
        one("full", {"vision_feature_layer": -2, "projector_hidden_act": "relu"}),
        one(
            "tower",
            {
                "vision_config": {
                    "num_attention_heads": 4,
                    "hidden_act": "gelu_pytorch_tanh",
                    "layer_norm_eps": 1e-3,
                    "use_mean_pooling": False,
                    "layer_scale_init_value": 0.3,
                }
            },
        ),
        one(
            "no_absolute",
            {"vision_config": {"use_absolute_position_embeddings": False}},
            hub=False,
            cases=("single",),
            refuses="use_absolute_position_embeddings",
        ),
        one(
            "mask_token",
            {"vision_config": {"use_mask_token": True}},
            hub=False,
            cases=("single",),
        ),
        one(
            "gqa1",
            {
                "text_config": {"num_key_value_heads": 4, "rope_parameters": YARN},
                "vision_config": {"attention_bias": False, "use_qk_norm": True},
            },
        ),
        one(
            "dynamic_long",
            {"text_config": {"max_position_embeddings": 16, "rope_parameters": DYNAMIC}},
            cases=("single",),
        ),
    ]


def others() -> list[Variant]:
    def one(family: str, name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant(family, name, changes, **rest)

    return [
        one("aya_vision", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "aya_vision",
            "heads",
            {
                "text_config": {
                    "num_attention_heads": 4,
                    "num_key_value_heads": 1,
                    "sliding_window": 5,
                    "rope_parameters": PLAIN,
                },
                "vision_config": {"num_attention_heads": 4, "hidden_act": "gelu"},
                "alignment_intermediate_size": 24,
            },
            cases=("single", "multi", "batch_left"),
        ),
        one(
            "aya_vision",
            "layer",
            {"vision_feature_layer": -2, "adapter_layer_norm_eps": 1e-2},
            cases=("single", "batch_left"),
        ),
        one(
            "aya_vision",
            "cohere1",
            {"text_config": text("cohere", logit_scale=0.3)},
            cases=("single",),
            hub=False,
            refuses="model_type",
        ),
        one(
            "aya_vision",
            "linear",
            {"text_config": {"rope_parameters": LINEAR, "hidden_act": "gelu"}},
            cases=("single", "long"),
        ),
        one("granite4_vision", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "granite4_vision",
            "heads",
            {
                "text_config": {
                    "num_attention_heads": 4,
                    "num_key_value_heads": 4,
                    "attention_bias": True,
                    "rope_parameters": LINEAR,
                },
                "vision_config": {"num_attention_heads": 4, "hidden_act": "gelu"},
            },
        ),
        one(
            "granite4_vision",
            "levels",
            {
                "deepstack_layer_map": [[-2, 1], [0, 0], [-1, 3]],
                "spatial_target_layers": [2, 0, 1, 3],
                "tie_word_embeddings": False,
                "text_config": {"tie_word_embeddings": False},
            },
        ),
        one(
            "granite4_vision",
            "qformer",
            {
                "qformer_config": {
                    "num_hidden_layers": 3,
                    "cross_attention_frequency": 2,
                    "hidden_act": "relu",
                    "layer_norm_eps": 1e-3,
                }
            },
        ),
        one("granite4_vision", "nospatial", {"use_spatial_sampling": False}, cases=("single", "multi")),
        one("deepseek_ocr2", "initial", {}, initial=True, cases=("single", "text")),
        one(
            "deepseek_ocr2",
            "experts",
            {
                "text_config": {
                    "n_shared_experts": 1,
                    "num_experts_per_tok": 3,
                    "routed_scaling_factor": 0.7,
                    "mlp_layer_types": ["sparse", "dense", "sparse"],
                    "attention_bias": True,
                    "hidden_act": "gelu",
                }
            },
            cases=("tiles", "text"),
            hub=False,
        ),
        one(
            "deepseek_ocr2",
            "tower",
            {
                "vision_config": {
                    "sam_config": {
                        "window_size": 5,
                        "global_attn_indexes": [0, 2],
                        "num_attention_heads": 4,
                        "qkv_bias": False,
                        "hidden_act": "relu",
                    },
                    "encoder_config": {"num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-3},
                }
            },
            cases=("single", "tiles"),
        ),
        one(
            "deepseek_ocr2",
            "gqa",
            {"text_config": {"num_key_value_heads": 2}, "tie_word_embeddings": True},
            cases=("tiles",),
        ),
        one(
            "deepseek_ocr2",
            "group_limited",
            {"text_config": {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}},
            cases=("tiles",),
            hub=False,
            refuses="topk_method",
        ),
        one("florence2", "initial", {}, initial=True, cases=("caption", "batch_right")),
        one(
            "florence2",
            "text",
            {
                "text_config": {
                    "encoder_layers": 3,
                    "decoder_layers": 1,
                    "encoder_attention_heads": 6,
                    "activation_function": "relu",
                    "scale_embedding": True,
                }
            },
        ),
        one(
            "florence2",
            "tower",
            {
                "vision_config": {
                    "depths": [1, 2, 1, 1],
                    "window_size": 5,
                    "num_heads": [1, 2, 2, 4],
                    "num_groups": [4, 2, 8, 2],
                    "qkv_bias": False,
                    "mlp_ratio": 3.0,
                    "activation_function": "gelu_new",
                    "patch_prenorm": [False, True, False, True],
                }
            },
        ),
    ]
