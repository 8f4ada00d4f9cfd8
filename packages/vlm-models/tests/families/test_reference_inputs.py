"""Arrays of the reference's processors that do not fit each other are refused by name: Gemma 3n, Phi-4 Multimodal, Molmo 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vlm_models import ProcessingError, load
from vlm_models.testing import golden
from vlm_models.testing.logits import prompts_of

ROOT = Path(__file__).parents[1] / "goldens"
Change = Callable[[np.ndarray], np.ndarray]


def more(array: np.ndarray) -> np.ndarray:
    return array + 1


def less(array: np.ndarray) -> np.ndarray:
    return array[..., :-1]


def first(array: np.ndarray) -> np.ndarray:
    return array[0]


def fewer(array: np.ndarray) -> np.ndarray:
    return array[:-1]


def nothing(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, -1)


CHANGES: dict[str, tuple[tuple[str, Change], ...]] = {
    "gemma3n/base:audio_and_image": (
        ("pixel_values", first),
        ("input_features", less),
        ("input_features", fewer),
        ("input_features_mask", less),
        ("token_type_ids", less),
    ),
    "phi4_multimodal/base:audio_and_image": (
        ("image_pixel_values", less),
        ("image_sizes", more),
        ("image_sizes", less),
        ("image_sizes", first),
        ("image_attention_mask", less),
        ("audio_input_features", less),
        ("audio_embed_sizes", more),
        ("audio_embed_sizes", fewer),
        ("audio_embed_sizes", first),
    ),
    "molmo2/qwen3:multi": (
        ("pixel_values", less),
        ("pixel_values", fewer),
        ("image_token_pooling", more),
        ("image_token_pooling", nothing),
        ("image_grids", less),
        ("image_num_crops", more),
        ("mm_token_type_ids", less),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_arrays_that_do_not_fit_are_refused_by_name(name: str, tmp_path: Path) -> None:
    made, case = golden.Golden(ROOT / name.split(":")[0]), name.split(":")[1]
    golden.materialise(made, tmp_path, "hub")
    processing, inputs = load(tmp_path).processing(), dict(made.cases[case].inputs)
    assert len(prompts_of(processing, inputs)) == len(inputs["input_ids"])
    for key, change in CHANGES[name]:
        with pytest.raises(ProcessingError, match=key):
            prompts_of(processing, inputs | {key: change(inputs[key])})
