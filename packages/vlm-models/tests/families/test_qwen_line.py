"""Qwen, GLM, InternVL and DeepSeek-OCR 2 beside the goldens: MLX-converted layouts, named errors, media that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from vlm_models import ConfigError, MediaOptions, PlaceholderError, ProcessingError, ProcessorFiles, WeightError
from vlm_models.core.weights import apply_rules
from vlm_models.loading import load
from vlm_models.processing.base import Processing
from vlm_models.registry import family
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

ROOT = Path(__file__).parents[1] / "goldens"
NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm_ocr", "internvl")
GOLDENS = {g.name: g for name in (*NAMES, "deepseek_ocr2") for g in golden.find(ROOT, name)}
FIRST = {name.split("/")[0]: g for name, g in reversed(GOLDENS.items())}
SHIFTED = ("layernorm.weight", "language_model.model.norm.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight")


def converted(family_name: str, tensors: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """Published tensors as MLX conversions name and turn them: channels last, experts apart, Qwen3.5's norms plus one."""
    made: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if name.startswith("mtp."):
            continue
        for old, new in (
            ("model.visual.", "vision_tower."),
            ("visual.", "vision_tower."),
            ("model.language_model.", "language_model.model."),
            ("model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
        ):
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        if value.ndim >= 4 or "conv1d" in name:
            value = np.moveaxis(value, 1, -1)
        if family_name.startswith("qwen3_5") and name.startswith("language_model.") and name.endswith(SHIFTED):
            value = value + 1
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("experts.gate_up_proj") + "switch_mlp"
            straight = value if family_name == "qwen3_5_moe" else value.swapaxes(1, 2)
            made[f"{stem}.gate_proj.weight"], made[f"{stem}.up_proj.weight"] = np.split(straight, 2, axis=1)
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("experts.down_proj") + "switch_mlp"
            made[f"{stem}.down_proj.weight"] = value if family_name == "qwen3_5_moe" else value.swapaxes(1, 2)
        else:
            made[name] = value
    return {name: mx.array(np.ascontiguousarray(value)) for name, value in made.items()}


@pytest.mark.parametrize("name", NAMES)
def test_conversions_give_the_same_logits(name: str, tmp_path: Path) -> None:
    made = FIRST[name]
    folder = golden.materialise(made, tmp_path, "hub")
    (folder / "model.safetensors").unlink()
    tensors = converted(name, made.tensors("hub"))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    for case in (made.cases["single"], made.cases["multi"]) if "multi" in made.cases else (made.cases["single"],):
        errors = golden.logit_errors(compute(load(folder), case.inputs)["logits"], case.outputs["logits"], case.valid)
        assert errors.overall <= 1e-4 and errors.worst <= 1e-3, errors


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def test_names_for_writing_are_those_of_conversions(name: str, tmp_path: Path) -> None:
    made = FIRST[name]
    loaded = load(golden.materialise(made, tmp_path, "hub"))
    own = dict(tree_flatten(loaded.model.parameters()))
    written = apply_rules(loaded.family.export_rules(loaded.config), own, {})
    wanted = converted(name, made.tensors("hub"))
    assert {key: value.shape for key, value in written.items()} == {key: value.shape for key, value in wanted.items()}
    assert all(mx.array_equal(written[key], wanted[key]) for key in wanted)


def changed(made: golden.Golden, change: Callable[[dict[str, Any]], Any]) -> Any:
    config = made.config("hub")
    change(config)
    return family(config["model_type"]).config(config)


Change = Callable[[dict[str, Any]], Any]
WRONG: list[tuple[str, Change, str]] = [
    ("qwen2_vl/base", lambda c: c["vision_config"].update(hidden_act="mish"), "mish"),
    ("qwen2_5_vl/base", lambda c: c.update(hidden_act="mish"), "mish"),
    ("qwen2_5_vl/base", lambda c: c["vision_config"].update(hidden_act="mish"), "mish"),
    ("qwen2_5_vl/base", lambda c: c["vision_config"].update(window_size=4), "window_size 4"),
    ("qwen2_5_vl/base", lambda c: c["vision_config"].update(rope_parameters={"rope_type": "spiral"}), "spiral"),
    ("qwen2_5_vl/base", lambda c: c["rope_scaling"].update(mrope_section=[1, 1, 1]), "mrope_section"),
    ("qwen2_5_vl/base", lambda c: c.update(rope_scaling={"type": "spiral"}), "spiral"),
    ("qwen3_vl/base", lambda c: c["vision_config"].update(num_position_embeddings=37), "square"),
    ("qwen3_vl/base", lambda c: c["vision_config"].update(deepstack_visual_indexes=[9]), "deepstack"),
    ("qwen3_vl/base", lambda c: c["vision_config"].update(out_hidden_size=44), "out_hidden_size"),
    ("qwen3_vl_moe/base", lambda c: c["text_config"].update(num_experts_per_tok=7), "num_experts_per_tok 7"),
    ("qwen3_5/base", lambda c: c["text_config"].update(layer_types=["mamba"] * 4), "mamba"),
    ("qwen3_5/base", lambda c: c["text_config"].update(attn_output_gate=False), "attn_output_gate"),
    ("qwen3_5/base", lambda c: c["text_config"].update(linear_num_value_heads=3), "value heads"),
    ("glm4v/base", lambda c: c["text_config"].update(hidden_act="mish"), "mish"),
    ("glm_ocr/base", lambda c: c["text_config"]["rope_parameters"].update(mrope_section=[1, 2]), "mrope_section"),
    ("internvl/qwen2", lambda c: c["vision_config"].update(norm_type="batch_norm"), "batch_norm"),
    ("internvl/qwen2", lambda c: c["vision_config"].update(image_size=[16, 24]), "square"),
    ("internvl/qwen2", lambda c: c.update(vision_feature_layer=-9), "vision_feature_layer -9"),
    ("internvl/qwen2", lambda c: c.update(vision_feature_select_strategy="full"), "vision_feature_select_strategy"),
    ("internvl/qwen2", lambda c: c.update(projector_hidden_act="mish"), "mish"),
    ("internvl/qwen2", lambda c: c["text_config"].update(model_type="rwkv"), "rwkv"),
    ("deepseek_ocr2/base", lambda c: c["text_config"].update(topk_method="noaux_tc"), "noaux_tc"),
    ("deepseek_ocr2/base", lambda c: c["text_config"].update(mlp_layer_types=["dense", "wide", "sparse"]), "wide"),
    ("deepseek_ocr2/base", lambda c: c["vision_config"]["sam_config"].update(use_rel_pos=False), "use_rel_pos"),
]


@pytest.mark.parametrize(("name", "change", "words"), WRONG, ids=[f"{w[0]}: {w[2]}" for w in WRONG])
def test_what_is_not_supported_is_a_named_error(name: str, change: Change, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        changed(GOLDENS[name], change)


@pytest.mark.parametrize("name", FIRST)
def test_a_missing_or_an_extra_tensor_is_refused(name: str, tmp_path: Path) -> None:
    folder = golden.materialise(FIRST[name], tmp_path, "hub")
    tensors = {key: mx.array(value) for key, value in FIRST[name].tensors("hub").items()}
    victim = next(key for key in tensors if key.endswith("o_proj.weight"))
    for change in (
        {**tensors, "model.surplus.weight": mx.zeros((2,))},
        {k: v for k, v in tensors.items() if k != victim},
    ):
        mx.save_safetensors(str(folder / "model.safetensors"), change, metadata={"format": "pt"})
        with pytest.raises(WeightError):
            load(folder)


def processing_of(name: str, files: ProcessorFiles | None = None) -> Processing:
    config = FIRST[name].config("hub")
    kind = family(config["model_type"])
    return kind.processing(kind.config(config), files or ProcessorFiles(), None)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_limits_of_area_hold_for_pictures_and_for_each_frame(name: str) -> None:
    processing, options = processing_of(name), MediaOptions(min_pixels=64, max_pixels=40 * 40)
    rgb = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    for item in (processing.image(rgb, options), processing.video(np.stack([rgb] * 4), [0.0, 0.5, 1.0, 1.5], options)):
        _, height, width = item.grid
        assert 0 < height * width * 4 * 4 <= 40 * 40


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_extreme_pictures_are_refused_or_fit(name: str) -> None:
    processing = processing_of(name)
    with pytest.raises(ProcessingError, match="200 times"):
        processing.image(np.zeros((1, 4000, 3), np.uint8), MediaOptions())
    assert processing.image(np.zeros((1, 1, 3), np.uint8), MediaOptions()).num_tokens >= 1


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "qwen3_5", "glm4v", "internvl"])
def test_a_video_of_one_frame_is_a_video(name: str) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 40, 56, 3)).astype(np.uint8)
    item = processing_of(name).video(frame, [0.0], MediaOptions())
    assert item.kind == "video" and item.num_tokens >= 1


def test_time_runs_in_seconds_for_video_alone() -> None:
    processing = processing_of("qwen2_5_vl")
    frames = np.zeros((8, 16, 16, 3), np.uint8)
    slow = processing.video(
        frames, [2.0 * i for i in range(8)], MediaOptions(min_pixels=64, max_pixels=256, duration=16.0)
    )
    token = processing.token_ids["video"]
    prompt = processing.prompt([1, *[token] * slow.num_tokens, 2], [slow])
    # four steps a second, four seconds a group of frames
    assert sorted(set(prompt.positions[0, 1:-1].tolist())) == [1, 17, 33, 49]
    assert prompt.positions[:, -1].tolist() == [1 + max(slow.grid[1:]) // 2] * 3
    assert prompt.position_delta == 50 - len(prompt)


def test_kinds_that_share_a_token_are_told_apart_by_their_marks() -> None:
    made = GOLDENS["glm4v/base"]
    processing = processing_of("glm4v")
    items = processing.unpack({k: v for k, v in made.cases["video"].inputs.items() if k in processing.unpack_names})
    tokens = made.cases["video"].inputs["input_ids"][0]
    assert {span.item for span in processing.prompt(tokens, items).spans} == {0}
    outside = np.where(np.isin(tokens, (104, 105)), 1, tokens)
    with pytest.raises(PlaceholderError):
        processing.prompt(outside, items)


def test_views_that_fit_no_set_of_queries_are_refused() -> None:
    with pytest.raises(ProcessingError, match="144 or 256"):
        processing_of("deepseek_ocr2", ProcessorFiles(image={"size": {"height": 64, "width": 64}, "tile_size": 96}))
