"""Variants: LLaVA and its kin."""

from __future__ import annotations

from typing import Any

from parts import DYNAMIC, LINEAR, LLAMA3, YARN, YARN_ODD, fixed, longrope, text, tower
from variant import REMOVE, Variant


def llava() -> list[Variant]:
    feature = "vision_feature_layer"
    full = {"vision_feature_select_strategy": "full"}

    def one(
        name: str, count: int, changes: dict[str, Any], *, batch: bool = True, side: int = 24, **rest: Any
    ) -> Variant:
        return Variant("llava", name, changes, own=fixed(99, count, side, batch=batch), **rest)

    clip, siglip = tower("clip_vision_model"), tower("siglip_vision_model", vision_use_head=False)
    return [
        one(
            "llama_linear",
            9,
            {"text_config": text("llama", rope_parameters=LINEAR, attention_bias=True), "vision_config": clip},
        ),
        one(
            "llama_llama3",
            9,
            {
                "text_config": text("llama", rope_parameters=LLAMA3, num_key_value_heads=4, mlp_bias=True),
                "vision_config": clip,
                feature: -1,
            },
        ),
        one(
            "llama_yarn",
            10,
            {
                "text_config": text("llama", rope_parameters=YARN, head_dim=6, hidden_act="gelu"),
                "vision_config": clip,
                feature: [-2, 1],
                **full,
            },
        ),
        one(
            "llama_yarn_odd",
            9,
            {"text_config": text("llama", rope_parameters=YARN_ODD), "vision_config": clip, feature: 2},
        ),
        one("llama_dynamic", 9, {"text_config": text("llama", rope_parameters=DYNAMIC), "vision_config": clip}),
        one(
            "llama_longrope_short",
            9,
            {"text_config": text("llama", rope_parameters=longrope(5, 128)), "vision_config": clip},
        ),
        one(
            "llama_longrope_long",
            9,
            {"text_config": text("llama", rope_parameters=longrope(5, 22)), "vision_config": clip},
            batch=False,
        ),  # the reference turns all rows by the longest
        one(
            "llama_dynamic_long",
            9,
            {"text_config": text("llama", rope_parameters=DYNAMIC, max_position_embeddings=20), "vision_config": clip},
            batch=False,
        ),
        one(
            "mistral_window",
            9,
            {
                "text_config": text("mistral", sliding_window=7, head_dim=20),
                "vision_config": clip | {"hidden_act": "gelu_new"},
                feature: [-1, 0],
            },
        ),
        one(
            "qwen2_tied",
            9,
            {
                "text_config": text("qwen2", tie_word_embeddings=True),
                "vision_config": clip,
                "tie_word_embeddings": True,
            },
        ),
        one(
            "qwen2_sliding",
            9,
            {
                "text_config": text(
                    "qwen2",
                    use_sliding_window=True,
                    sliding_window=6,
                    max_window_layers=1,
                    num_hidden_layers=3,
                    rms_norm_eps=1e-3,
                ),
                "vision_config": siglip,
                **full,
                feature: -1,
            },
        ),
        one(
            "qwen3",
            9,
            {
                "text_config": text("qwen3", head_dim=12, attention_bias=True),
                "vision_config": siglip,
                **full,
                "projector_hidden_act": "silu",
            },
        ),
        one(
            "granite",
            9,
            {
                "text_config": text(
                    "granite",
                    embedding_multiplier=3.0,
                    logits_scaling=2.0,
                    residual_multiplier=0.5,
                    attention_multiplier=0.2,
                ),
                "vision_config": siglip,
                **full,
            },
        ),
        one(
            "siglip_head",
            9,
            {
                "vision_config": tower("siglip_vision_model", num_attention_heads=2, layer_norm_eps=1e-3),
                **full,
                "multimodal_projector_bias": False,
            },
        ),
        one(
            "clip_more",
            9,
            {
                "vision_config": clip
                | {"layer_norm_eps": 1e-3, "num_attention_heads": 1, "hidden_act": "gelu_pytorch_tanh"},
                "projector_hidden_act": "gelu_pytorch_tanh",
            },
        ),
        one("rectangle_patches", 16, {"vision_config": clip | {"patch_size": 6}}),
        one(
            "gemma",
            9,
            {"text_config": text("gemma", head_dim=16), "vision_config": clip},
            refuses="model_type='gemma' is not supported",
        ),
        one(
            "gemma2",
            9,
            {
                "text_config": text("gemma2", head_dim=16, sliding_window=9, query_pre_attn_scalar=12),
                "vision_config": clip,
            },
            refuses="model_type='gemma2' is not supported",
        ),
        one(
            "phi3",
            9,
            {"text_config": text("phi3"), "vision_config": clip},
            refuses="model_type='phi3' is not supported",
            hub=False,
        ),
        one("uneven_clip", 9, {"vision_config": clip | {"image_size": 29}}, side=29),
        one("uneven_siglip", 9, {"vision_config": siglip | {"image_size": 26}, **full}, side=26),
        Variant("llava", "initial", initial=True, cases=("single", "batch_left")),
        Variant(
            "llava",
            "one_head",
            {"text_config": {"num_attention_heads": 1, "num_key_value_heads": 1, "hidden_act": "relu"}},
        ),
    ]


def llava_next() -> list[Variant]:
    def one(name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant("llava_next", name, changes, **rest)

    base = {"image_size": 16, "patch_size": 4}
    clip = tower("clip_vision_model", **base)
    siglip = tower("siglip_vision_model", vision_use_head=False, **base)
    return [
        one("initial", {}, initial=True, cases=("single", "batch_left")),
        one("qwen2", {"text_config": text("qwen2"), "vision_config": clip, "vision_feature_layer": -1}),
        one(
            "llama_tied",
            {
                "text_config": text("llama", rope_parameters=LLAMA3, tie_word_embeddings=True),
                "vision_config": clip,
                "tie_word_embeddings": True,
            },
        ),
        one(
            "llama_longrope",
            {"text_config": text("llama", rope_parameters=longrope(5, 32)), "vision_config": clip},
            cases=("single", "multi"),
        ),
        one(
            "mistral",
            {
                "text_config": text("mistral", sliding_window=5, head_dim=8, num_key_value_heads=1),
                "vision_config": clip,
                "vision_feature_layer": [-3, -1],
                "multimodal_projector_bias": False,
            },
        ),
        one(
            "pinpoints",
            {"image_grid_pinpoints": [[16, 32], [48, 16], [32, 48]], "projector_hidden_act": "relu"},
            tables={},
            parts={"PINPOINTS": [[16, 32], [48, 16], [32, 48]]},
        ),
        one(
            "granite_untied",
            {
                "tie_word_embeddings": False,
                "text_config": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
            },
            base="granite",
        ),
        one("siglip_layers", {"vision_config": siglip, "vision_feature_layer": [0, 2, -1, -1]}, base="granite"),
        one(
            "granite_dropout",
            {"text_config": text("granite", rope_parameters=YARN, num_key_value_heads=4, tie_word_embeddings=True)},
            base="granite",
        ),
    ]


def llava_onevision() -> list[Variant]:
    def one(name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant("llava_onevision", name, changes, **rest)

    return [
        one("clips", {}, own=clips),
        one("initial", {}, initial=True, cases=("single", "video", "batch_left")),
        one(
            "heads",
            {
                "text_config": {"num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": LINEAR},
                "vision_config": {"num_attention_heads": 4, "hidden_act": "gelu"},
                "projector_hidden_act": "relu",
            },
        ),
        one("layer", {"vision_feature_layer": -2, "multimodal_projector_bias": False}),
        one("layers", {"vision_feature_layer": [-2, 1]}),
        one("tied", {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}),
        one("llama", {"text_config": text("llama", rope_parameters=LLAMA3)}),
        one(
            "qwen3", {"text_config": text("qwen3", head_dim=14, tie_word_embeddings=True), "tie_word_embeddings": True}
        ),
        one(
            "sliding",
            {
                "text_config": {
                    "use_sliding_window": True,
                    "sliding_window": 8,
                    "max_window_layers": 0,
                    "layer_types": REMOVE,
                }
            },
        ),
    ]


def clips(module: Any) -> list[Any]:
    """Two clips; pictures and clips in rows of a padded batch."""

    def case(name: str, text: list[str], **media: Any) -> Any:
        return module.inputs.build(module.processor(), name, text, **media)

    rows = ["user <video>\nWhat?", "user hello", "user <image>\nAnd <video>\n?"]
    return [
        case("clips", ["user <video><video>\nSame?"], videos=[(2, 20, 30), (2, 9, 14)]),
        case("rows", rows, pictures=[(30, 20)], videos=[(2, 20, 30), (2, 40, 30)]),
    ]


def pixtral_like() -> list[Variant]:
    def one(family: str, name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant(family, name, changes, **rest)

    return [
        one("pixtral", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "pixtral",
            "heads",
            {
                "text_config": {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8, "sliding_window": 9},
                "vision_config": {
                    "num_attention_heads": 4,
                    "head_dim": 8,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
                },
            },
        ),
        one("pixtral", "head_dim", {"vision_config": {"num_attention_heads": 8, "head_dim": 4}}),
        one(
            "pixtral",
            "llama",
            {
                "text_config": text("llama", rope_parameters=YARN, tie_word_embeddings=True, vocab_size=112),
                "tie_word_embeddings": True,
            },
        ),
        one(
            "pixtral",
            "act",
            {
                "vision_config": {"hidden_act": "gelu_pytorch_tanh", "num_hidden_layers": 3},
                "vision_feature_layer": -2,
                "multimodal_projector_bias": False,
                "projector_hidden_act": "silu",
            },
        ),
        one("pixtral", "layers", {"vision_feature_layer": [-2, -1]}),
        one("mistral3", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "mistral3",
            "heads",
            {
                "text_config": {
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "sliding_window": 9,
                    "rope_parameters": YARN,
                },
                "vision_config": {"num_attention_heads": 1, "head_dim": 32},
                "multimodal_projector_bias": True,
            },
        ),
        one("mistral3", "relu", {"projector_hidden_act": "relu"}),
        one("mistral3", "layer", {"vision_feature_layer": 1}),
        one(
            "mistral3",
            "qwen2",
            {"text_config": text("qwen2", vocab_size=112, tie_word_embeddings=True), "tie_word_embeddings": True},
        ),
        one(
            "mistral3",
            "ministral_gqa1",
            {
                "text_config": {"num_key_value_heads": 4, "tie_word_embeddings": False, "sliding_window": 11},
                "tie_word_embeddings": False,
            },
            base="ministral3",
        ),
    ]


def idefics() -> list[Variant]:
    def one(family: str, name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant(family, name, changes, **rest)

    return [
        one("idefics2", "initial", {}, initial=True, cases=("single", "batch_left")),
        one(
            "idefics2",
            "heads",
            {
                "text_config": {"num_attention_heads": 4, "num_key_value_heads": 4, "rope_parameters": LINEAR},
                "perceiver_config": {
                    "resampler_n_heads": 6,
                    "num_key_value_heads": 6,
                    "resampler_head_dim": 8,
                    "resampler_depth": 3,
                    "rms_norm_eps": 1e-3,
                },
                "vision_config": {"num_attention_heads": 4, "hidden_act": "gelu"},
            },
        ),
        one(
            "idefics2",
            "tied",
            {
                "tie_word_embeddings": True,
                "text_config": {"tie_word_embeddings": True, "head_dim": 20},
                "perceiver_config": {"hidden_act": "gelu"},
            },
        ),
        one(
            "idefics2", "llama", {"text_config": text("llama", hidden_size=48, vocab_size=108, rope_parameters=LLAMA3)}
        ),
        one(
            "idefics2",
            "patch",
            {"vision_config": {"image_size": 24, "patch_size": 6}},
            cases=("single", "multi", "batch_left"),
        ),
        one("idefics3", "initial", {}, initial=True, cases=("single", "batch_left")),
        one("idefics3", "mistral", {"text_config": text("mistral", sliding_window=6)}),
        one(
            "idefics3",
            "heads",
            {
                "text_config": {
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "rope_parameters": YARN,
                    "attention_bias": True,
                },
                "vision_config": {"num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
            },
        ),
        one("idefics3", "qwen2", {"text_config": text("qwen2", tie_word_embeddings=True), "tie_word_embeddings": True}),
        one("smolvlm", "initial", {}, initial=True, cases=("single", "video", "batch_left")),
        one(
            "smolvlm",
            "heads",
            {
                "tie_word_embeddings": False,
                "text_config": {
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "head_dim": 10,
                    "tie_word_embeddings": False,
                },
                "vision_config": {"num_attention_heads": 1},
            },
        ),
        one(
            "smolvlm",
            "linear",
            {"text_config": {"rope_parameters": LINEAR, "num_hidden_layers": 1, "rms_norm_eps": 1e-3}},
        ),
    ]
