"""What the parity command takes and what it refuses by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlm_models import Loaded, ProcessingError, load
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

GOLDENS = Path(__file__).parents[1] / "goldens"
IDS = np.arange(20, 32)[None]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    made = golden.Golden(GOLDENS / "llava/base")
    return load(golden.materialise(made, tmp_path_factory.mktemp("checkpoint"), "transformers"))


def test_what_can_be_derived_may_be_given(loaded: Loaded) -> None:
    plain = compute(loaded, {"input_ids": IDS})["logits"]
    more = {
        "attention_mask": np.ones_like(IDS),
        "position_ids": np.arange(12)[None],
        "cache_position": np.arange(12),
        "mm_token_type_ids": np.zeros_like(IDS),
        "token_type_ids": np.zeros_like(IDS),
    }
    assert np.array_equal(plain, compute(loaded, {"input_ids": IDS, **more})["logits"])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("attention_mask", np.array([[1] * 5 + [0] + [1] * 6]), "left or on the right"),
        ("attention_mask", np.zeros((1, 12), int), "left or on the right"),
        ("attention_mask", np.ones((1, 11), int), "must both be"),
        ("cache_position", np.arange(3, 15), "cache_position"),
        ("position_ids", np.arange(1, 13)[None], "position_ids"),
        ("token_type_ids", np.ones((1, 12), int), "token_type_ids"),
        ("decoder_input_ids", np.ones((1, 2), int), "decoder"),
        ("num_crops", np.zeros(1, int), "num_crops"),
    ],
)
def test_what_would_be_ignored_is_refused(loaded: Loaded, name: str, value: np.ndarray, said: str) -> None:
    with pytest.raises(ProcessingError, match=said):
        compute(loaded, {"input_ids": IDS, name: value})
