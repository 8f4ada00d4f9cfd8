"""Variants: Gemma 3n, Phi-4 Multimodal, Molmo 2."""

from __future__ import annotations

from typing import Any

import inputs
from families import gemma3n, molmo2, phi4_multimodal
from maker import Spec, processor_files
from parts import LINEAR, LLAMA3, PLAIN, YARN
from shared import hashed
from variant import Variant

LOCAL, FULL = "sliding_attention", "full_attention"


def heard(side: int = 128, tokens: int = 16, bins: int = 32, sounds: int = 6) -> Any:
    """Gemma 3n's processor with other sizes."""

    def make() -> Any:
        tokenizer = ORIGINALS["gemma3n"]().tokenizer
        pictures = gemma3n.SiglipImageProcessorPil(size={"height": side, "width": side}, do_normalize=True, resample=0)
        hears = gemma3n.Gemma3nAudioFeatureExtractor(feature_size=bins)
        return gemma3n.Gemma3nProcessor(
            hears, pictures, tokenizer, gemma3n.TEMPLATE, audio_seq_length=sounds, image_seq_length=tokens
        )

    return make


def cropped(crop: int = 64, patch: int = 2, most: int = 4, bins: int = 16, reduction: int = 8) -> Any:
    """Phi-4's processor with other sizes, which counts the cells of the whole by them."""
    cells = -(-(crop // patch) // 2)

    class Counting(phi4_multimodal.Phi4MultimodalProcessor):
        def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
            return self.image_token * int(image_inputs["num_img_tokens"][image_idx] - 272 + cells * (cells + 1))

    def make() -> Any:
        size = {"height": crop, "width": crop}
        return Counting(
            phi4_multimodal.Phi4MultimodalImageProcessor(size=size, patch_size=patch, dynamic_hd=most),
            phi4_multimodal.Phi4MultimodalFeatureExtractor(feature_size=bins, audio_compression_rate=reduction),
            ORIGINALS["phi4_multimodal"]().tokenizer,
            chat_template=phi4_multimodal.TEMPLATE,
        )

    return make


def viewed(
    pictures: dict[str, Any] | None = None, videos: dict[str, Any] | None = None, *, side: int = 24, **how: Any
) -> Any:
    """Molmo 2's processor with other views, pools and layouts."""

    def make() -> Any:
        common = {"size": {"height": side, "width": side}, "patch_size": 4, **molmo2.HALF}
        margins = {"overlap_margins": [1, 1], "max_crops": 4}
        return molmo2.Molmo2Processor(
            molmo2.Molmo2ImageProcessor(**{**common, **margins, **(pictures or {})}),
            molmo2.Molmo2VideoProcessor(**{**common, "do_sample_frames": False, **(videos or {})}),
            ORIGINALS["molmo2"]().tokenizer,
            chat_template=molmo2.TEMPLATE,
            **how,
        )

    return make


ORIGINALS = {module.__name__.split(".")[-1]: module.processor for module in (gemma3n, phi4_multimodal, molmo2)}


def built(*cases: tuple[str, list[str], dict[str, Any]], **common: Any) -> Any:
    """Cases of texts, inside one turn each, and media, through the processor in place."""

    def own(module: Any) -> list[Any]:
        return [
            inputs.build(module.processor(), name, [module.turn(content) for content in text], **common, **media)
            for name, text, media in cases
        ]

    return own


def newer() -> list[Variant]:
    return [*_gemma3n(), *_phi(), *_molmo()]


def _gemma3n() -> list[Variant]:
    def one(name: str, text: dict[str, Any], more: Any = None, **rest: Any) -> Variant:
        return Variant("gemma3n", name, {"text_config": text, **(more or {})}, **rest)

    image, audio = gemma3n.IMAGE, gemma3n.AUDIO
    few = ("single", "audio", "batch_left")
    ropes = {
        FULL: LINEAR,
        LOCAL: PLAIN,
    }
    return [
        one("initial", {}, initial=True, cases=few),
        one(
            "mqa",
            {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20, "num_kv_shared_layers": 0},
            cases=few,
        ),
        one(
            "seven_layers",
            {
                "num_hidden_layers": 7,
                "layer_types": [FULL, LOCAL, LOCAL, FULL, FULL, LOCAL, LOCAL],
                "num_kv_shared_layers": 3,
                "intermediate_size": [40, 48, 56, 64, 72, 80, 88],
                "activation_sparsity_pattern": [0.0, 0.3, 0.0, 0.8, 0.6, 0.0, 0.5],
                "sliding_window": 5,
                "num_key_value_heads": 4,
            },
            cases=("text", "long", "batch_left"),
        ),
        one(
            "altup",
            {
                "altup_num_inputs": 2,
                "altup_active_idx": 1,
                "altup_correct_scale": False,
                "laurel_rank": 3,
                "hidden_size_per_layer_input": 12,
                "intermediate_size": 64,
                "activation_sparsity_pattern": None,
            },
            cases=few,
        ),
        one(
            "altup5",
            {"altup_num_inputs": 5, "altup_active_idx": 3, "rms_norm_eps": 1e-3, "vocab_size_per_layer_input": 98},
            cases=("text", "audio", "batch_left"),
            hub=False,  # as published a second token ends a turn, which the reference's answer holds
        ),
        one("rows_for_all", {"vocab_size_per_layer_input": 122, "hidden_activation": "gelu"}, cases=few),
        one("ropes", {"rope_parameters": ropes}, cases=("text", "long", "single"), hub=False),
        one(
            "ropes_both_scaled",
            {"rope_parameters": {FULL: LLAMA3, LOCAL: YARN}},
            cases=("text", "long"),
            hub=False,
        ),
        one(
            "all_local",
            {"layer_types": [LOCAL] * 5, "sliding_window": 3, "num_kv_shared_layers": 4},
            cases=("text", "single"),
            hub=False,
        ),
        one(
            "ears",
            {},
            {
                "audio_config": {
                    "hidden_size": 48,
                    "input_feat_size": 48,
                    "conf_attention_chunk_size": 3,
                    "conf_attention_context_left": 8,
                    "conf_num_attention_heads": 4,
                    "conf_num_hidden_layers": 1,
                    "conf_reduction_factor": 3,
                    "conf_conv_kernel_size": 3,
                    "conf_residual_weight": 0.3,
                    "conf_attention_logit_cap": 2.0,
                    "sscp_conv_channel_size": [4, 8],
                    "sscp_conv_group_norm_eps": 1e-2,
                    "rms_norm_eps": 1e-4,
                },
                "audio_soft_tokens_per_image": 9,
            },
            parts={"processor": heard(bins=48, sounds=9)},
            own=built(
                ("short", [f"{audio}?"], {"sounds": [900]}),
                ("long_sound", [f"What is {audio}"], {"sounds": [13_000]}),
                ("alike", [f"{audio}and{audio}"], {"sounds": [6000, 6000]}),
            ),
        ),
        one(
            "eyes",
            {},
            {
                "vision_config": {
                    "model_args": {"channel_multiplier": 0.03, "msfa_output_resolution": 5},
                    "rms_norm_eps": 1e-3,
                },
                "vision_soft_tokens_per_image": 25,
            },
            parts={"processor": heard(side=96, tokens=25)},
            own=built(
                ("one", [f"{image}Hm"], {"pictures": [[(9, 30)]]}),
                ("rows", [f"a{image}bc", f"{image}{image}"], {"pictures": [[(9, 30)], [(40, 5), (3, 3)]]}),
            ),
        ),
        one("untied", {"tie_word_embeddings": False}, {"tie_word_embeddings": False}, cases=("text",), hub=False,
            refuses="tie_word_embeddings"),
    ]  # fmt: skip


def tuned(branch: str, rank: int, alpha: int) -> dict[str, Any]:
    """What replaces parts of the Phi-4 module: a reference into which the branch is merged, taken out again as published."""
    settings = {"r": rank, "lora_alpha": alpha, "layer": "", "dp": 0.0}

    def to_hub(tensors: dict[str, Any]) -> dict[str, Any]:
        made = dict(tensors)
        for name in [n for n in tensors if n.startswith("model.layers.") and n.endswith("_proj.weight")]:
            stem, (out, width) = name.removesuffix(".weight"), tensors[name].shape
            for own, spread in ((branch, rank), *((o, 2) for o in phi4_multimodal.BRANCHES if o != branch)):
                shapes = {f"{stem}.lora_A.{own}.weight": (spread, width), f"{stem}.lora_B.{own}.weight": (out, spread)}
                for lora, shape in shapes.items():
                    made[lora] = hashed.normal(lora, shape, hashed.spread_of(lora, shape))
            up, down = made[f"{stem}.lora_B.{branch}.weight"], made[f"{stem}.lora_A.{branch}.weight"]
            made[name] = tensors[name] - alpha / rank * up @ down
        return phi4_multimodal.to_microsoft(made)

    def specs() -> list[Spec]:
        files = inputs_files()
        return [
            Spec("phi4_multimodal", "base", phi4_multimodal.build, phi4_multimodal.microsoft_config,
                 phi4_multimodal.cases, to_hub, files=files)
        ]  # fmt: skip

    others = {own: {"r": 2, "lora_alpha": 6, "layer": "", "dp": 0.0} for own in phi4_multimodal.BRANCHES}
    return {"specs": specs, "BRANCHES": others | {branch: settings}}


def inputs_files() -> dict[str, dict[str, Any]]:
    return phi4_multimodal.split_processor(processor_files(phi4_multimodal.processor()))


def longrope(count: int) -> dict[str, Any]:
    return {
        "short_factor": [1.0 + 0.2 * i for i in range(count)],
        "long_factor": [1.5 + 0.7 * i for i in range(count)],
    }


def _phi() -> list[Variant]:
    def one(name: str, changes: dict[str, Any], **rest: Any) -> Variant:
        return Variant("phi4_multimodal", name, changes, base="base", **rest)

    few = ("single", "audio", "long", "batch_left")
    crops = built(
        ("tall", ["<|image|>Hm"], {"pictures": [(50, 4, 4)]}),
        ("several", ["a<|image|>b<|image|>c"], {"pictures": [(20, 31, 4), (9, 5, 4)]}),
        (
            "rows",
            ["<|image|>What?", "No picture. " * 6, f"<|image|>{'and so on ' * 6}"],
            {"pictures": [(40, 40, 4), (3, 20, 5)]},
        ),
        ("beside", ["<|image|>x<|audio|>"], {"pictures": [(11, 11, 7)], "sounds": [2500]}),
        drop=("num_img_tokens",),
    )
    crops_alone = built(
        ("several", ["a<|image|>b<|image|>c"], {"pictures": [(20, 31, 4), (9, 5, 4)]}),
        ("beside", ["<|image|>x<|audio|>"], {"pictures": [(11, 11, 7)], "sounds": [2500]}),
        drop=("num_img_tokens",),
    )
    sounds = built(
        ("shortest", ["<|audio|>?"], {"sounds": [560]}),
        ("long_sound", ["Hear <|audio|>"], {"sounds": [21_000]}),
        ("alike", ["<|audio|>and<|audio|>!"], {"sounds": [7000, 7000]}),
        ("rows", ["<|audio|>Hm", "and <|audio|>"], {"sounds": [7000, 7000]}),
        drop=("num_img_tokens",),
    )
    audio = {
        "num_attention_heads": 4,
        "num_blocks": 1,
        "kernel_size": 5,
        "intermediate_size": 52,
        "time_reduction": 4,
        "nemo_conv_channels": 12,
        "bias_max_distance": 40,
        "bias_symmetric": True,
        "input_size": 20,
        "activation": "gelu",
        "conv_activation": "relu",
        "conv_glu_type": "gelu",
        "nemo_activation": "silu",
        "nemo_final_size": 5,
    }
    vision = {"num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-3, "num_hidden_layers": 4}
    made = {"hub": False}
    return [
        one("initial", {}, initial=True, cases=few),
        one("mqa", {"num_attention_heads": 8, "num_key_value_heads": 1, "rope_parameters": {"partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.3], "long_factor": [2.0, 5.0]}}, cases=few),
        one("untied", {"tie_word_embeddings": False, "num_key_value_heads": 4, "num_hidden_layers": 1,
            "rms_norm_eps": 1e-3}, cases=few),
        one("whole_rotary", {"original_max_position_embeddings": 48,
            "rope_parameters": {"partial_rotary_factor": 1.0, **longrope(8)}}, own=built(
                *((f"of{n}", ["x" * n], {"greedy": 0 if n == 45 else 6}) for n in (1, 38, 45, 46, 60)))),
        one("never_longer", {"original_max_position_embeddings": 512,
            "rope_parameters": {"rope_theta": 300.0}}, cases=few),
        one("plain", {"rope_parameters": {"rope_type": "default", "short_factor": None, "long_factor": None}},
            cases=few, **made),
        one("window", {"sliding_window": 14, "num_key_value_heads": 4}, cases=("single", "long", "batch_left")),
        one("features", {"vision_config": vision | {"feature_layer": -1, "patch_size": 4}},
            parts={"processor": cropped(patch=4, most=9)}, own=crops, **made),
        one("odd_cells", {"vision_config": vision | {"feature_layer": 1, "patch_size": 8, "image_size": 72, "crop_size": 72}},
            parts={"processor": cropped(crop=72, patch=8, most=6)}, own=crops, **made),
        one("ears", {"audio_config": audio}, parts={"processor": cropped(bins=20, reduction=4)}, own=sounds, **made),
        one("depthwise", {"audio_config": {"depthwise_multiplier": 2, "time_reduction": 16, "nemo_final_size": 1,
            "bias_max_distance": 3}}, parts={"processor": cropped(reduction=16)}, own=sounds, **made),
        one("lora_vision", {}, parts=tuned("vision", 5, 15), cases=("single", "audio_and_image")),
        one("lora_speech", {"num_key_value_heads": 4}, parts=tuned("speech", 1, 3), cases=("audio",), own=None),
        one("lora_wide", {"num_hidden_layers": 3}, parts=tuned("vision", 70, 12), own=crops_alone),
    ]  # fmt: skip


def _molmo() -> list[Variant]:
    def one(name: str, text: dict[str, Any], more: Any = None, **rest: Any) -> Variant:
        return Variant("molmo2", name, {"text_config": text, **(more or {})}, **{"base": "qwen3"} | rest)

    def clip(frames: int, fps: float = 2.0, rows: int = 1) -> dict[str, Any]:
        held = {"fps": fps, "total_num_frames": frames, "frames_indices": list(range(frames))}
        return {"videos": [(frames, 20, 30)] * rows, "arguments": {"video_metadata": [held] * rows}}

    image, video = molmo2.IMAGE, molmo2.VIDEO
    views = built(
        ("wide", [f"{image}Hm"], {"pictures": [(8, 90)]}),
        ("three", [f"{image}{image}a b{image}"], {"pictures": [(70, 20), (33, 33), (4, 4)]}),
        ("rows", [f"a{image}{image}b", "none", f"longer text, {image}"], {"pictures": [(30, 20), (3, 40), (60, 60)]}),
        ("clip", [f"a{video}b"], clip(4)),
        ("clips", [f"a{video}b", f"longer {video} text"], clip(2, rows=2)),
        ("frame", [f"{video}"], clip(1, 1.0)),
    )
    few = ("single", "video", "batch_left")
    vision = {"num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
              "hidden_act": "gelu", "attention_bias": False, "layer_norm_eps": 1e-3}  # fmt: skip
    adapter = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 10, "attention_bias": False,
               "hidden_act": "gelu", "intermediate_size": 28}  # fmt: skip
    return [
        one("initial", {}, initial=True, cases=few),
        one("mqa", {"num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 10, "attention_bias": True,
            "hidden_size": 40, "rms_norm_eps": 1e-3, "num_hidden_layers": 2, "rope_scaling_layers": None},
            {"adapter_config": {"text_hidden_size": 40}}, cases=few),
        one("after", {"norm_after": True, "num_key_value_heads": 4, "hidden_act": "gelu"}, cases=few),
        one("olmo_before", {"norm_after": False, "attention_bias": False, "num_key_value_heads": 4,
            "rope_scaling_layers": [0, 2], "rope_parameters": YARN | {"attention_factor": 0.7}}, base="olmo", own=views),
        one("olmo_scaled", {"rope_scaling_layers": None, "rope_parameters": LLAMA3}, base="olmo", cases=few),
        one("linear", {"rope_scaling_layers": [0], "rope_parameters": LINEAR}, cases=few),
        one("no_layer_scaled", {"rope_scaling_layers": [], "rope_parameters": LINEAR}, cases=("single",), hub=False),
        one("vocabulary", {"vocab_size": 100, "additional_vocab_size": 30}, cases=few),
        one("tower", {}, {"vision_config": vision, "adapter_config": adapter | {"vision_feature_layer": [-1]}},
            own=views, hub=False),
        one("three_states", {}, {"vision_config": vision, "adapter_config": adapter | {"vision_feature_layer": [3, -4, 0]}},
            own=views, hub=False),
        one("pools", {}, parts={"processor": viewed({"pooling_size": [3, 1], "max_crops": 6, "overlap_margins": [1, 2]},
            {"pooling_size": [2, 4]})}, own=views),
        one("wide_views", {}, {"vision_config": {"image_size": [32, 32], "num_position_embeddings": 64}},
            parts={"processor": viewed({"pooling_size": [5, 3], "overlap_margins": [0, 2], "max_crops": 3},
            {"pooling_size": [3, 5]}, side=32)}, own=views),
        one("layouts", {}, parts={"processor": viewed(image_use_col_tokens=False, use_single_crop_col_tokens=True,
            use_single_crop_start_token=False, video_use_col_tokens=True, use_frame_special_tokens=False)}, own=views),
        one("tied", {"tie_word_embeddings": True}, {"tie_word_embeddings": True}, cases=("single",), hub=False,
            refuses="tie_word_embeddings"),
    ]  # fmt: skip
