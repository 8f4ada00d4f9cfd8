"""Phi-4 Multimodal: branches by row, rotary factors by length, sounds beside pictures, published settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from vlm_models import ConfigError, MediaOptions, PlaceholderError, ProcessingError, load
from vlm_models.core.attention import Attention
from vlm_models.core.cache import plain_caches
from vlm_models.loading import Loaded
from vlm_models.registry import family
from vlm_models.testing import golden

ROOT = Path(__file__).parents[1] / "goldens/phi4_multimodal"


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(golden.materialise(golden.Golden(ROOT / "branches"), tmp_path_factory.mktemp("phi"), "hub"))


def logits(loaded: Loaded, adapters: list[str | None], tokens: np.ndarray) -> np.ndarray:
    model, (batch, length) = loaded.model, tokens.shape
    positions = mx.broadcast_to(mx.arange(length, dtype=mx.int32), (1, batch, length))
    caches = plain_caches(model.cache_spec(), batch=batch)
    inputs = model.embed(mx.array(tokens), (), ())
    return np.array(model(inputs, positions, Attention.at(0, length, batch=batch), caches, adapters=adapters).logits)


def test_rows_of_a_batch_run_through_branches_of_their_own(branches: Loaded) -> None:
    names = [None, "vision", "speech", "speech+long", "long"]
    tokens = np.broadcast_to(np.arange(5, 25, dtype=np.int32), (len(names), 20))
    together = logits(branches, names, tokens)
    alone = np.concatenate([logits(branches, [name], tokens[:1]) for name in names])
    assert np.allclose(together, alone, atol=1e-4)
    differences = np.abs(alone[:, None] - alone[None]).max(axis=(2, 3))
    assert (differences + np.eye(len(names)) > 1e-2).all()


def test_media_and_length_choose_the_branch(branches: Loaded) -> None:
    processing = branches.processing()
    options = MediaOptions()
    picture = processing.image(np.zeros((20, 30, 3), np.uint8), options)
    sound = processing.audio(np.ones(4000, np.float32), 16_000, options)
    picture_run, sound_run = ([processing.token_ids[item.kind]] * item.num_tokens for item in (picture, sound))
    assert processing.prompt([5] * 64, []).adapter is None
    assert processing.prompt([5] * 65, []).adapter == "long"
    assert processing.prompt([5, *sound_run], [sound]).adapter == "speech"
    both = processing.prompt([*sound_run, *picture_run], [sound, picture])
    assert both.adapter == "vision+long"
    beside = branches.model.encode([both.items[0]])[0].tokens
    assert mx.abs(beside - branches.model.encode([sound])[0].tokens).max().item() > 1e-3


def test_a_sound_beside_pictures_has_a_key_of_its_own(branches: Loaded) -> None:
    processing = branches.processing()
    sound = processing.audio(np.ones(4000, np.float32), 16_000, MediaOptions())
    picture = processing.image(np.zeros((20, 30, 3), np.uint8), MediaOptions())
    runs = [[processing.token_ids[item.kind]] * item.num_tokens for item in (sound, picture)]
    alone = processing.prompt(runs[0], [sound]).with_digests(("a",))
    keyed = processing.prompt(runs[0] + runs[1], [alone.items[0], picture])
    assert keyed.items[0].digest not in ("", "a")


def test_numbered_placeholders_must_count_up(tmp_path: Path) -> None:
    golden.materialise(golden.Golden(ROOT / "branches"), tmp_path, "hub")
    loaded = load(tmp_path)

    class Table:
        def text(self, token_id: int) -> str:
            return {101: "<|image|>", 102: "<|audio|>"}[token_id]

        def id(self, text: str) -> int | None:
            return {"<|image|>": 101, "<|audio|>": 102}.get(text)

    processing = loaded.processing(Table())
    picture = processing.image(np.zeros((20, 30, 3), np.uint8), MediaOptions())
    run = "<|image|>" * picture.num_tokens
    assert processing.expand(["<|image_1|>a<|image_2|>"], [picture, picture]) == [f"{run}a{run}"]
    assert processing.mentions("<|image_1|><|audio_1|><|image|>") == {"image": 2, "audio": 1}
    with pytest.raises(PlaceholderError, match="number media as they come"):
        processing.expand(["<|image_2|>a<|image_1|>"], [picture, picture])


def test_narrow_pictures_and_short_sounds_are_refused(branches: Loaded) -> None:
    processing = branches.processing()
    with pytest.raises(ProcessingError, match="10 pixels"):
        processing.image(np.zeros((2, 60, 3), np.uint8), MediaOptions())
    with pytest.raises(ProcessingError, match="shorter than one frame"):
        processing.audio(np.zeros(399, np.float32), 16_000, MediaOptions())


def test_the_published_tower_is_left_to_code() -> None:
    hf = golden.Golden(ROOT / "branches").config("hub") | {"img_processor": None}
    hf["embd_layer"]["image_embd_layer"]["crop_size"] = 448
    config = family("phi4mm").config(hf)
    assert (config.vision.dim, config.vision.depth, config.vision.image, config.vision.patch) == (1152, 26, 448, 14)
    assert config.tokens == {"image": 200_010, "audio": 200_011}


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ((), {"hidden_act": "gelu"}),
        ((), {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}),
        (("audio_config",), {"chunk_size": 18}),
        (("audio_config",), {"time_reduction": 6}),
        (("audio_config",), {"conv_glu_type": "mish"}),
        (("vision_config",), {"crop_size": 32}),
        (("vision_config",), {"feature_layer": -5}),
    ],
)
def test_unknown_settings_are_refused(part: tuple[str, ...], change: dict[str, Any]) -> None:
    hf = golden.Golden(ROOT / "base").config("transformers")
    target = hf
    for key in part:
        target = target[key]
    target |= change
    with pytest.raises(ConfigError):
        family("phi4_multimodal").config(hf)
