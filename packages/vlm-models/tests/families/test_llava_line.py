"""LLaVA and its kin beside the goldens: MLX-converted layouts, named errors for what is not supported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from vlm_models import ConfigError, MediaOptions, ProcessingError, ProcessorFiles
from vlm_models.core.weights import apply_rules
from vlm_models.loading import load, shapes_of
from vlm_models.processing.video.told import in_words
from vlm_models.registry import family
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

ROOT = Path(__file__).parents[1] / "goldens"
GOLDENS = {g.name: g for name in ("llava", "llava_next", "llava_onevision", "pixtral", "mistral3", "idefics2", "idefics3",
                                  "smolvlm", "granite4_vision", "aya_vision") for g in golden.find(ROOT, name)}  # fmt: skip
FIRST = {name.split("/")[0]: g for name, g in reversed(GOLDENS.items())}


def converted(name: str, value: np.ndarray) -> tuple[str, mx.array]:
    """A published tensor as MLX conversions name and turn it."""
    for old, new in (
        ("model.text_model.", "language_model.model."),
        ("model.vision_model.", "vision_model."),
        ("model.connector.", "connector."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(old):
            name = new + name.removeprefix(old)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        name = "vision_tower.vision_model." + name.removeprefix("vision_tower.")
    if value.ndim == 4:
        value = value.transpose(0, 2, 3, 1)
    return name, mx.array(value)


@pytest.mark.parametrize("name", FIRST)
def test_conversions_give_the_same_logits(name: str, tmp_path: Path) -> None:
    made = FIRST[name]
    folder = golden.materialise(made, tmp_path, "hub")
    tensors = dict(converted(key, value) for key, value in made.tensors("hub").items())
    (folder / "model.safetensors").unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    config = made.config("hub")
    if name == "pixtral":  # conversions name the family at the top and leave out what LLaVA would have to be told
        config |= {"model_type": "pixtral"}
        config.pop("vision_feature_layer"), config.pop("vision_feature_select_strategy")
        (folder / "config.json").write_text(json.dumps(config))
    case = made.cases.get("multi", made.cases["single"])
    errors = golden.logit_errors(compute(load(folder), case.inputs)["logits"], case.outputs["logits"], case.valid)
    assert errors.overall <= 1e-4 and errors.worst <= 1e-3, errors


@pytest.mark.parametrize("name", FIRST)
def test_names_written_for_others_load_again(name: str, tmp_path: Path) -> None:
    made = FIRST[name]
    folder = golden.materialise(made, tmp_path, "hub")
    loaded = load(folder)
    own = dict(tree_flatten(loaded.model.parameters()))
    written = apply_rules(loaded.family.export_rules(loaded.config), own, shapes_of(loaded.model), is_mlx=True)
    assert any(value.ndim == 4 and value.shape[-1] == 3 for value in written.values())
    text = "language_model.layers." if name in ("idefics2", "idefics3", "smolvlm") else "language_model.model.layers."
    assert any(key.startswith(text) for key in written)
    (folder / "model.safetensors").unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), written, metadata={"format": "mlx"})
    again = dict(tree_flatten(load(folder).model.parameters()))
    assert again.keys() == own.keys() and all(mx.array_equal(again[key], own[key]) for key in own)


def changed(made: golden.Golden, change: Callable[[dict[str, Any]], None]) -> Any:
    config = made.config("hub")
    change(config)
    return family(config["model_type"]).config(config)


WRONG: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("llava/base", lambda c: c.update(projector_hidden_act="gelu_magic"), "gelu_magic"),
    ("llava/base", lambda c: c.update(vision_feature_layer=-9), "vision_feature_layer -9"),
    ("llava/base", lambda c: c.update(vision_feature_select_strategy="cls"), "vision_feature_select_strategy"),
    ("llava/base", lambda c: c["vision_config"].update(model_type="eva"), "eva"),
    ("llava/base", lambda c: c["vision_config"].update(hidden_act="mish"), "mish"),
    ("llava/base", lambda c: c["text_config"].update(model_type="rwkv"), "rwkv"),
    ("llava/base", lambda c: c["text_config"].update(rope_scaling={"type": "spiral"}), "spiral"),
    ("pixtral/base", lambda c: c["vision_config"].update(rope_scaling={"rope_type": "yarn"}), "yarn"),
    ("llava_next/granite", lambda c: c.update(vision_feature_select_strategy="default"), "square of patches"),
    ("llava_onevision/base", lambda c: c.update(vision_aspect_ratio="square"), "vision_aspect_ratio"),
    ("mistral3/mistral", lambda c: c.update(vision_feature_layer=[-1, -2]), "one layer"),
    ("idefics2/base", lambda c: c["perceiver_config"].update(hidden_size=32), "perceiver"),
    ("idefics3/base", lambda c: c.update(scale_factor=3), "scale_factor"),
    ("granite4_vision/base", lambda c: c.update(downsample_rate="0.5"), "downsample_rate"),
]


@pytest.mark.parametrize(("name", "change", "words"), WRONG, ids=[f"{w[0]}: {w[2]}" for w in WRONG])
def test_what_is_not_supported_is_a_named_error(name: str, change: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        changed(GOLDENS[name], change)


@pytest.mark.parametrize("name", FIRST)
def test_limits_of_area_are_refused_and_a_shape_is_obeyed(name: str) -> None:
    config = FIRST[name].config("hub")
    kind = family(config["model_type"])
    processing = kind.processing(kind.config(config), ProcessorFiles(), None)
    rgb = np.zeros((30, 20, 3), np.uint8)
    with pytest.raises(ProcessingError, match="max_pixels"):
        processing.image(rgb, MediaOptions(max_pixels=100))
    tall = processing.image(rgb, MediaOptions(resize_shape=(48, 16)))
    same = processing.image(np.zeros((48, 16, 3), np.uint8), MediaOptions())
    assert tall.num_tokens == same.num_tokens and tall.grid == same.grid


def test_several_pictures_cost_onevision_one_tile_each() -> None:
    config = FIRST["llava_onevision"].config("hub")
    kind = family("llava_onevision")
    processing = kind.processing(kind.config(config), ProcessorFiles(), None)
    rgb = np.zeros((30, 20, 3), np.uint8)
    alone, one_of_two = processing.image(rgb, MediaOptions()), processing.image(rgb, MediaOptions(num_images=2))
    assert (
        alone.grid != (1, 1) and one_of_two.num_tokens == 9 + 1 and one_of_two.arrays["pixels"].shape == (1, 3, 12, 12)
    )


def test_numbers_in_words() -> None:
    assert [in_words(n) for n in (0, 8, 13, 20, 64, 100, 121, 1000, 1032, 2345)] == [
        "zero", "eight", "thirteen", "twenty", "sixty-four", "one hundred", "one hundred and twenty-one", "one thousand",
        "one thousand and thirty-two", "two thousand, three hundred and forty-five",
    ]  # fmt: skip
