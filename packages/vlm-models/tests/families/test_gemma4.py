"""Gemma 4: MLX's names and axis orders, sampling of videos, budgets of pictures, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlm_models import ConfigError, MediaOptions, ModalityError, ProcessingError, load
from vlm_models.processing.image.budget import BudgetStrategy
from vlm_models.registry import family
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

ROOT = Path(__file__).parents[1] / "goldens"


def of_mlx(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """A published tensor as MLX conversions keep it."""
    name = name.removeprefix("model.").replace("language_model.", "language_model.model.")
    if name.endswith("conv.weight") and value.ndim == 4:
        value = np.ascontiguousarray(value.transpose(0, 2, 3, 1))
    if "depthwise_conv1d" in name:
        value = np.ascontiguousarray(value.transpose(0, 2, 1))
    stem, found, last = name.rpartition(".experts.")
    if not found:
        return {name: value}
    stem += ".experts.switch_glu"
    if last == "down_proj":
        return {f"{stem}.down_proj.weight": value}
    gate, up = (np.ascontiguousarray(half) for half in np.split(value, 2, axis=1))
    return {f"{stem}.gate_proj.weight": gate, f"{stem}.up_proj.weight": up}


@pytest.mark.parametrize("name", ["gemma4/dense", "gemma4/moe", "gemma4/e", "gemma4_unified/base"])
def test_mlx_conversions_load(name: str, tmp_path: Path) -> None:
    made = golden.Golden(ROOT / name)
    golden.materialise(made, tmp_path, "hub")
    renamed: dict[str, np.ndarray] = {}
    for key, value in made.tensors("hub").items():
        renamed |= of_mlx(key, value)
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "mlx"})
    case = list(made.cases.values())[-1]
    ours = compute(load(tmp_path), case.inputs)["logits"]
    assert golden.logit_errors(ours, case.outputs["logits"], case.valid).overall < 1e-4


def config(name: str, **text: Any) -> dict[str, Any]:
    hf = golden.Golden(ROOT / name).config("hub")
    return hf | {"text_config": hf["text_config"] | text}


@pytest.mark.parametrize(
    "text",
    [
        {"use_bidirectional_attention": "all"},
        {"attention_bias": True},
        {"layer_types": ["chunked_attention"] * 4},
        {"num_kv_shared_layers": 4},
        {"hidden_activation": "mish"},
    ],
)
def test_unknown_settings_are_refused(text: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        family("gemma4").config(config("gemma4/dense", **text))


def test_heads_that_are_not_tied_are_refused() -> None:
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        family("gemma4").config(config("gemma4/dense") | {"tie_word_embeddings": False})


def test_a_model_without_ears_refuses_sounds(tmp_path: Path) -> None:
    golden.materialise(golden.Golden(ROOT / "gemma4/dense"), tmp_path, "hub")
    with pytest.raises(ModalityError):
        load(tmp_path).processing().audio(np.zeros(16_000, np.float32), 16_000, MediaOptions())


def test_max_pixels_moves_the_budget() -> None:
    strategy = BudgetStrategy(patch=16, pool=3, tokens=280)
    height, width = strategy.size(1000, 1000, MediaOptions(max_pixels=70 * 48**2))
    assert (height, width) == (8 * 48, 8 * 48)
    with pytest.raises(ProcessingError, match="less than one token"):
        strategy.size(1000, 1000, MediaOptions(max_pixels=100))


def test_frames_are_the_first_of_equal_stretches(tmp_path: Path) -> None:
    golden.materialise(golden.Golden(ROOT / "gemma4/dense"), tmp_path, "hub")
    processing = load(tmp_path).processing()
    assert processing.sample(64, 24.0, MediaOptions()).tolist() == list(range(0, 64, 2))
    assert processing.sample(48, 24.0, MediaOptions(fps=2)).tolist() == [0, 12, 24, 36]
    assert processing.sample(5, 24.0, MediaOptions()).tolist() == [0, 1, 2, 3, 4]
