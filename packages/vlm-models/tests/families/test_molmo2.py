"""Molmo 2: the block of all pictures, tokens apart, tables in two, sampling of clips, layouts of views, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlm_models import ConfigError, MediaOptions, ModalityError, ProcessingError, load
from vlm_models.loading import Loaded
from vlm_models.processing.image.overlap import OverlapStrategy, cells_of, tiling
from vlm_models.processing.molmo2 import MolmoLayout
from vlm_models.registry import family
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

ROOT = Path(__file__).parents[1] / "goldens/molmo2"
START, END, PATCH, LOW = 102, 103, 104, 106


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(golden.materialise(golden.Golden(ROOT / "qwen3"), tmp_path_factory.mktemp("molmo"), "hub"))


def test_text_between_pictures_stands_apart(loaded: Loaded) -> None:
    processing = loaded.processing()
    picture = processing.image(np.zeros((30, 42, 3), np.uint8), MediaOptions())
    run = [LOW, *[PATCH] * picture.num_tokens, END]
    prompt = processing.prompt([5, *run, 6, 7, *run, 8], [picture, picture])
    assert prompt.blocks == ((1, len(prompt) - 1),)
    ids = prompt.block_ids(0, len(prompt))
    assert ids is not None
    assert np.flatnonzero(ids < 0).tolist() == [0, 1 + len(run), 2 + len(run), len(prompt) - 1]
    assert prompt.legal_cut(3) == len(prompt) - 1


def test_prompts_start_with_the_begin_token(tmp_path: Path) -> None:
    golden.materialise(golden.Golden(ROOT / "qwen3"), tmp_path, "hub")
    processing = load(tmp_path).processing()
    assert processing.expand(["Hello"], []) == ["<|im_end|>Hello"]
    assert processing.expand(["<|im_end|>Hello"], []) == ["<|im_end|>Hello"]
    given = {"bos_token": None, "eos_token": {"content": "<|endoftext|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(given))
    assert load(tmp_path).processing().expand(["Hello"], []) == ["<|endoftext|>Hello"]


def test_a_whole_table_loads_as_one_in_two(tmp_path: Path) -> None:
    made = golden.Golden(ROOT / "qwen3")
    golden.materialise(made, tmp_path, "hub")
    save_file(made.tensors("memory"), tmp_path / "model.safetensors", metadata={"format": "pt"})
    case = made.cases["single"]
    ours = compute(load(tmp_path), case.inputs)["logits"]
    assert golden.logit_errors(ours, case.outputs["logits"], case.valid).overall < 1e-4


def test_mlx_conversions_load(tmp_path: Path) -> None:
    made = golden.Golden(ROOT / "qwen3")
    golden.materialise(made, tmp_path, "hub")
    renamed = {
        name.replace("model.transformer.", "language_model.model.")
        .replace("model.vision_backbone.", "vision_tower.")
        .replace("transformer.resblocks.", "transformer.")
        .replace("lm_head.", "language_model.lm_head."): value
        for name, value in made.tensors("hub").items()
    }
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "mlx"})
    case = made.cases["multi"]
    ours = compute(load(tmp_path), case.inputs)["logits"]
    assert golden.logit_errors(ours, case.outputs["logits"], case.valid).overall < 1e-4


def test_pictures_and_video_do_not_mix(loaded: Loaded) -> None:
    processing = loaded.processing()
    picture = processing.image(np.zeros((30, 42, 3), np.uint8), MediaOptions())
    clip = processing.video(np.zeros((2, 30, 42, 3), np.uint8), (0.0, 0.5), MediaOptions())
    tokens = [PATCH] * (picture.num_tokens + clip.num_tokens)
    with pytest.raises(ModalityError, match="or one video"):
        processing.prompt(tokens, [picture, clip])


@pytest.mark.parametrize(
    ("total", "rate", "options", "expected"),
    [
        (100, 10.0, MediaOptions(), list(range(0, 100, 5))),
        (6, 2.0, MediaOptions(), list(range(6))),
        (3000, 30.0, MediaOptions(max_frames=3), [0, 1000, 2000]),
        (90, 30.0, MediaOptions(fps=1.0), [0, 30, 60]),
        (5, 30.0, MediaOptions(), [0]),
    ],
)
def test_frames_start_equal_stretches(
    loaded: Loaded, total: int, rate: float, options: MediaOptions, expected: list[int]
) -> None:
    assert loaded.processing().sample(total, rate, options).tolist() == expected


def test_a_clip_is_written_with_its_times() -> None:
    clip = MolmoLayout.from_files({}).clip((2, 1, 2), (0.0, 0.5))
    frame = "<frame_start><im_patch><im_patch><frame_end>"
    assert clip == f"0.0 {frame} 0.5 {frame}"
    plain = MolmoLayout.from_files({"use_frame_special_tokens": False, "video_use_col_tokens": True})
    assert plain.clip((1, 1, 1), (0.0,)) == "0.0 <im_start><im_patch><im_col><im_end>"


def test_views_are_written_as_the_files_say() -> None:
    files = {"image_use_col_tokens": False, "use_single_crop_start_token": False, "use_single_crop_col_tokens": True}
    assert MolmoLayout.from_files(files).picture((1, 1, 1, 2)) == (
        "<im_start><im_patch><im_col><im_end><im_start><im_patch><im_patch><im_end>"
    )


def test_cells_share_what_is_missing_between_both_edges() -> None:
    cells, grid = cells_of(np.arange(4).reshape(1, 4), (3, 3))
    assert grid == (1, 2)
    assert cells.tolist() == [[-1, -1, -1, -1, 0, 1, -1, -1, -1], [-1, -1, -1, 2, 3, -1, -1, -1, -1]]


def test_small_pictures_take_one_view() -> None:
    assert tiling(-100, -50, 266, 8) == (1, 1)
    assert tiling(0, 600, 266, 8) == (1, 3)


def test_margins_must_leave_a_window() -> None:
    strategy = OverlapStrategy(24, 4, (2, 2), margins=(3, 3))
    with pytest.raises(ProcessingError, match="leave nothing"):
        strategy(np.zeros((30, 30, 3), np.uint8))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_config", {"qk_norm_type": "llama"}),
        ("text_config", {"hidden_act": "mish"}),
        ("text_config", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}}),
        ("text_config", {"rope_scaling_layers": [3]}),
        ("text_config", {"tie_word_embeddings": True}),
        ("vision_config", {"image_size": [24, 20]}),
        ("vision_config", {"hidden_act": "mish"}),
        ("adapter_config", {"vision_feature_layer": [5]}),
        ("adapter_config", {"mlp_bias": True}),
        ("adapter_config", {"text_hidden_size": 40}),
    ],
)
def test_unknown_settings_are_refused(part: str, change: dict[str, Any]) -> None:
    hf = golden.Golden(ROOT / "qwen3").config("transformers")
    hf[part] |= change
    with pytest.raises(ConfigError):
        family("molmo2").config(hf)
