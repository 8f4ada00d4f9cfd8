"""The golden reader and hashed weights: what they give must never change unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vlm_models.testing import golden, hashed

GOLDENS = Path(__file__).parents[1] / "goldens"
BITS = [18229519916173899913, 8900353464137872856, 12177284550166331945]
NORMAL = [1.049924373626709, 1.5650651454925537, 1.082722783088684, 1.5353193283081055]


def test_hashed_values_are_these():
    assert [int(v) for v in hashed.bits("model.norm.weight", 3)] == BITS
    drawn = hashed.normal("model.norm.weight", (2, 2), hashed.Spread(1.0, 0.5))
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn.reshape(-1), np.array(NORMAL, np.float32))


def test_hashed_weights_have_the_spread_asked_for():
    drawn = hashed.normal("a", (400, 500), hashed.Spread(0.25, 2.0))
    assert abs(float(drawn.mean()) - 0.25) < 0.02
    assert abs(float(drawn.std()) - 2.0) < 0.02


def test_pictures_are_smooth_and_differ_by_name():
    one, other = hashed.image("one", 24, 32), hashed.image("other", 24, 32)
    assert one.shape == (24, 32, 3) and one.dtype == np.uint8
    assert (one != other).mean() > 0.5
    assert one.std() > 20


def test_recipes_take_views_and_join_pieces():
    memory = {"a": np.arange(12.0).reshape(3, 4), "b": np.ones((1, 4))}
    turned = golden.assemble({"of": "a", "offset": 1, "strides": [1, 4], "shape": [2, 3]}, memory)
    np.testing.assert_array_equal(turned, memory["a"][:, 1:3].T)
    joined = golden.assemble({"axis": 0, "pieces": ["a", "b"]}, memory)
    np.testing.assert_array_equal(joined, np.concatenate([memory["a"], memory["b"]]))


def test_every_golden_describes_layouts_that_can_be_built():
    found = list(golden.find(GOLDENS))
    assert len(found) > 30
    for made in found:
        names = set(made.manifest["tensors"])
        for layout in made.layouts:
            recipes = made.manifest["layouts"][layout]
            used = set(_sources(recipes)) if isinstance(recipes, dict) else names
            assert used <= names, (made.name, layout)
        assert made.cases, made.name
        for case in made.cases.values():
            assert case.valid.shape == case.outputs["logits"].shape[:2], (made.name, case.name)
            assert np.isfinite(case.outputs["logits"]).all(), (made.name, case.name)


def _sources(recipes):
    for name, recipe in recipes.items():
        pieces = recipe["pieces"] if isinstance(recipe, dict) and "pieces" in recipe else [recipe]
        for piece in pieces:
            yield name if piece is None else piece if isinstance(piece, str) else piece["of"]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_materialised_checkpoint_holds_the_layout(tmp_path, shards):
    made = golden.Golden(GOLDENS / "llava/base")
    golden.materialise(made, tmp_path, "hub", num_shards=shards)
    stored = {}
    for path in tmp_path.glob("*.safetensors"):
        stored |= load_file(path)
    expected = made.tensors("hub")
    assert stored.keys() == expected.keys()
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in stored
    for name, tensor in expected.items():
        np.testing.assert_array_equal(stored[name], tensor)
    assert (tmp_path / "config.json").exists() and (tmp_path / "tokenizer.json").exists()
    assert (tmp_path / "preprocessor_config.json").exists()


def test_errors_count_valid_positions_only():
    reference = np.ones((1, 3, 4), np.float32)
    ours = reference.copy()
    ours[0, 0] = 9
    assert golden.logit_errors(ours, reference, np.array([[False, True, True]])) == golden.Errors(0.0, 0.0)
    ours[0, 2] *= 1.001
    errors = golden.logit_errors(ours, reference, np.array([[False, True, True]]))
    assert errors.worst == pytest.approx(1e-3, rel=1e-3)
    assert errors.overall == pytest.approx(1e-3 / 2**0.5, rel=1e-3)


def test_a_tie_ends_the_comparison_and_is_counted():
    margins = np.array([0.1, 1e-6, 0.1])
    assert golden.disagreements(np.array([1, 2, 3]), np.array([1, 2, 3]), margins) == ([], 0)
    assert golden.disagreements(np.array([1, 9, 9]), np.array([1, 2, 3]), margins) == ([], 1)
    assert golden.disagreements(np.array([9, 2, 3]), np.array([1, 2, 3]), margins) == ([0], 0)


def test_processing_goldens_cover_fifty_sizes():
    found = list(golden.find_processing(GOLDENS))
    assert len(found) > 20
    for made in found:
        assert made.sizes.shape == (50, 2)
        answered = made.columns["refused"] == 0
        assert (made.columns["tokens"][answered] > 0).all(), made.folder
        assert made.config["image_processor_type"]
        for about, picture in zip(made.manifest["pictures"], made.pictures, strict=True):
            assert picture["raw"].shape == (about["height"], about["width"], 3)
            assert picture["sample"].size == -(-int(np.prod(about["shape"])) // about["stride"])


def test_audio_goldens_hold_what_they_describe():
    found = list(golden.find_sounds(GOLDENS))
    assert {made.folder.parent.name for made in found} == {"gemma3n", "gemma4", "gemma4_unified", "phi4_multimodal"}
    for made in found:
        for about, clip in zip(made.manifest["sounds"], made.clips, strict=True):
            assert clip["raw"].shape == (about["samples"],)
            for name, array in about["arrays"].items():
                assert clip[name].size == -(-int(np.prod(array["shape"])) // array["stride"])
