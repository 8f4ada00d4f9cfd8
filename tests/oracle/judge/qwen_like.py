"""Variants: Qwen's line, GLM and PaddleOCR."""

from __future__ import annotations

from typing import Any

from families import glm4v, qwen2_5_vl, qwen2_vl, qwen3_5, qwen3_vl
from maker import CaseSpec
from parts import LINEAR, YARN
from variant import REMOVE, Variant


def mixed(home: Any, *, both: bool = True) -> Any:
    """Cases with pictures and clips in rows of a padded batch; two clips; a clip behind a picture. home: module with `case`.
    both: the reference tells pictures from clips in one prompt."""

    def cases(_: Any) -> list[CaseSpec]:
        image, clip, turn = home.IMAGE, home.VIDEO, home.turn
        rows = [turn(f"{clip}a{image}b"), turn("hello"), turn(f"{image}{clip}")]
        clips = home.case("clips", [turn(f"{clip}{clip}?")], videos=[(2, 16, 16), (7, 20, 28)])
        if not both:
            return [clips]
        return [
            clips,
            home.case("rows", rows, pictures=[(20, 30), (33, 17)], videos=[(4, 16, 24), (3, 24, 16)]),
            home.case(
                "behind", [turn(f"{image}then{clip}{image}")], pictures=[(40, 9), (10, 50)], videos=[(5, 30, 12)]
            ),
        ]

    return cases


def qwen() -> list[Variant]:
    def rope(**values: Any) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": 3000.0, **values}

    def one(family: str, name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant(family, name, changes, **rest)

    made = []
    for family, width in (("qwen2_vl", "embed_dim"), ("qwen2_5_vl", "hidden_size")):
        wide = {
            "text_config": {
                "hidden_size": 40,
                "num_attention_heads": 5,
                "num_key_value_heads": 1,
                "rope_parameters": rope(mrope_section=[1, 2, 1]),
            }
        }
        wide["vision_config"] = {"hidden_size": 40} if family == "qwen2_vl" else {"out_hidden_size": 40}
        made += [
            one(family, "initial", {}, initial=True, cases=("single", "video", "batch_left")),
            one(family, "wide", wide),
            one(family, "tower", {"vision_config": {width: 48, "num_heads": 3, "depth": 1}}),
            one(
                family,
                "gqa1",
                {
                    "text_config": {
                        "num_key_value_heads": 4,
                        "num_hidden_layers": 1,
                        "layer_types": REMOVE,
                        "rms_norm_eps": 1e-3,
                    },
                    "tie_word_embeddings": False,
                },
            ),
            one(
                family,
                "linear",
                {"text_config": {"rope_parameters": LINEAR | {"mrope_section": [4, 2, 2]}}},
                cases=("single", "video"),
            ),
            one(
                family,
                "yarn",
                {"text_config": {"rope_parameters": YARN | {"mrope_section": [4, 2, 2]}}},
                cases=("single", "long"),
            ),
            one(
                family,
                "patch",
                {"vision_config": {"patch_size": 6, "spatial_merge_size": 2}},
                tables={"PATCHES": {"patch_size": 6}},
            ),
            one(
                family,
                "merge",
                {"vision_config": {"patch_size": 3, "spatial_merge_size": 3}},
                tables={"PATCHES": {"patch_size": 3, "merge_size": 3}},
                hub=False,
            ),
            one(
                family,
                "temporal",
                {"vision_config": {"temporal_patch_size": 1}},
                tables={"PATCHES": {"temporal_patch_size": 1}},
                hub=False,
            ),
        ]
    made += [
        one("qwen2_vl", "act", {"vision_config": {"hidden_act": "gelu"}}, cases=("single",), hub=False),
        one(
            "qwen2_5_vl",
            "window",
            {"vision_config": {"window_size": 8, "fullatt_block_indexes": [0, 2], "tokens_per_second": 3}},
        ),
        one("qwen2_5_vl", "nowindow", {"vision_config": {"fullatt_block_indexes": [], "hidden_act": "gelu"}}),
        one(
            "qwen2_5_vl",
            "layered",
            {
                "text_config": {
                    "use_sliding_window": True,
                    "sliding_window": 10,
                    "max_window_layers": 0,
                    "layer_types": REMOVE,
                }
            },
        ),
    ]
    made += [
        one("qwen3_vl", "initial", {}, initial=True, cases=("single", "video", "batch_left")),
        one(
            "qwen3_vl",
            "gqa1",
            {
                "text_config": {
                    "num_attention_heads": 3,
                    "num_key_value_heads": 3,
                    "head_dim": 12,
                    "rope_parameters": rope(mrope_section=[2, 2, 2], mrope_interleaved=True),
                }
            },
        ),
        one("qwen3_vl", "no_deepstack", {"vision_config": {"deepstack_visual_indexes": []}}),
        one(
            "qwen3_vl",
            "deepstack3",
            {
                "vision_config": {
                    "deepstack_visual_indexes": [2, 0, 1],
                    "hidden_act": "gelu",
                    "num_position_embeddings": 9,
                },
                "tie_word_embeddings": False,
            },
        ),
        one(
            "qwen3_vl",
            "patch",
            {"vision_config": {"patch_size": 6, "num_position_embeddings": 100}},
            tables={"PATCHES": {"patch_size": 6}},
        ),
        one(
            "qwen3_vl",
            "merge",
            {"vision_config": {"patch_size": 3, "spatial_merge_size": 3}},
            tables={"PATCHES": {"patch_size": 3, "merge_size": 3}},
        ),
        one(
            "qwen3_vl",
            "rope_plain",
            {"text_config": {"rope_parameters": rope(mrope_section=[3, 3, 2])}},
            cases=("single", "video"),
        ),
        one(
            "qwen3_vl",
            "yarn",
            {"text_config": {"rope_parameters": YARN | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}}},
            cases=("single", "long"),
        ),
        one("qwen3_vl_moe", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "qwen3_vl_moe",
            "top1",
            {"text_config": {"num_experts_per_tok": 1, "mlp_only_layers": [], "num_experts": 4}},
            cases=("single", "batch_left"),
        ),
        one(
            "qwen3_vl_moe",
            "all",
            {"text_config": {"num_experts_per_tok": 6, "mlp_only_layers": [0, 2], "moe_intermediate_size": 12}},
            cases=("single", "video"),
        ),
        one(
            "qwen3_vl_moe",
            "step",
            {"text_config": {"decoder_sparse_step": 2, "mlp_only_layers": []}, "tie_word_embeddings": True},
            cases=("single", "batch_left"),
        ),
        one("qwen3_vl_moe", "raw_topk", {"text_config": {"norm_topk_prob": False}}, cases=("single",)),
        one("qwen3_5", "initial", {}, initial=True, cases=("single", "video", "batch_left")),
        one(
            "qwen3_5",
            "heads",
            {
                "text_config": {
                    "linear_num_key_heads": 4,
                    "linear_num_value_heads": 4,
                    "linear_value_head_dim": 8,
                    "num_attention_heads": 6,
                    "num_key_value_heads": 1,
                    "attention_bias": True,
                }
            },
        ),
        one(
            "qwen3_5",
            "conv2",
            {
                "text_config": {
                    "linear_conv_kernel_dim": 2,
                    "linear_num_value_heads": 6,
                    "layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"],
                },
                "tie_word_embeddings": True,
            },
        ),
        one(
            "qwen3_5",
            "rope",
            {
                "text_config": {
                    "rope_parameters": rope(mrope_section=[2, 3, 3], mrope_interleaved=True, partial_rotary_factor=1.0)
                }
            },
            cases=("single", "multi", "video"),
        ),
        one(
            "qwen3_5",
            "eps",
            {
                "text_config": {"rms_norm_eps": 1e-3, "hidden_act": "gelu"},
                "vision_config": {"hidden_act": "gelu", "num_heads": 4},
            },
        ),
        one("qwen3_5_moe", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "qwen3_5_moe",
            "top1",
            {"text_config": {"num_experts_per_tok": 1, "num_experts": 3, "shared_expert_intermediate_size": 12}},
            cases=("single", "batch_left"),
        ),
        one(
            "qwen3_5_moe",
            "top5",
            {"text_config": {"num_experts_per_tok": 5, "moe_intermediate_size": 32}, "tie_word_embeddings": True},
            cases=("single", "video"),
        ),
    ]
    for family, home in (
        ("qwen2_vl", qwen2_vl),
        ("qwen2_5_vl", qwen2_5_vl),
        ("qwen3_vl", qwen3_vl),
        ("qwen3_5", qwen3_5),
    ):
        made.append(one(family, "mixed", {}, own=mixed(home)))
    return made


def glm() -> list[Variant]:
    def one(family: str, name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant(family, name, changes, **rest)

    rope = {"rope_type": "default", "rope_theta": 900.0, "mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0}
    made = []
    for family in ("glm4v", "glm_ocr"):
        made += [
            one(family, "initial", {}, initial=True, cases=("single", "video", "batch_left")),
            one(
                family,
                "gqa1",
                {
                    "text_config": {
                        "num_attention_heads": 3,
                        "num_key_value_heads": 3,
                        "rms_norm_eps": 1e-3,
                        "rope_parameters": rope,
                        "head_dim": 16,
                    },
                    "vision_config": {"num_heads": 4, "depth": 3},
                },
                hub=family == "glm_ocr",
            ),
            one(
                family,
                "tied",
                {
                    "tie_word_embeddings": True,
                    "text_config": {"tie_word_embeddings": True},
                    "vision_config": {"hidden_act": "gelu"},
                },
            ),
            one(
                family,
                "bias",
                {
                    "text_config": {"attention_bias": True, "hidden_act": "gelu"},
                    "vision_config": {"attention_bias": True, "rms_norm_eps": 1e-3},
                },
                hub=False,
            ),
            one(family, "table", {"vision_config": {"image_size": 40, "intermediate_size": 24}}),
        ]
    made += [
        one(
            "glm4v",
            "patch",
            {"vision_config": {"patch_size": 6, "image_size": 36}},
            tables={"PATCHES": {"patch_size": 6}},
        ),
        one(
            "glm4v",
            "yarn",
            {"text_config": {"rope_parameters": YARN | {"mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0}}},
            cases=("single", "long"),
            hub=False,
        ),
        one("paddleocr_vl", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "paddleocr_vl",
            "heads",
            {
                "text_config": {
                    "num_attention_heads": 6,
                    "num_key_value_heads": 6,
                    "head_dim": 8,
                    "use_bias": True,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [2, 1, 1]},
                },
                "vision_config": {"num_attention_heads": 4, "image_size": 36, "hidden_act": "gelu"},
                "tie_word_embeddings": False,
            },
        ),
        one(
            "paddleocr_vl",
            "act",
            {"text_config": {"hidden_act": "gelu", "rms_norm_eps": 1e-3}, "vision_config": {"layer_norm_eps": 1e-3}},
        ),
    ]
    made += [one(family, "mixed", {}, own=mixed(glm4v, both=False)) for family in ("glm4v", "glm_ocr")]
    return made
