from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from vlm_models import load
from vlm_train.errors import ResumeError
from vlm_train.recipes.demo import layout, network, optimizer, trainer
from vlm_train.recipes.demo.__main__ import main
from vlm_train.recipes.demo.parameters import named
from vlm_train.recipes.demo.trainer import Settings, Trainer

SETTINGS = Settings(steps=6, batch=3, group=2, seed=4, dtype="float32")


def tiny() -> dict:
    config = layout.config()
    config |= {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 1, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    config["vision_config"] |= {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}
    return config


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short text alone: the generator's pictures are tested elsewhere."""
    from vlm_train.recipes.demo import samples

    monkeypatch.setattr(samples, "MIX", (("read", 0.6), ("sum", 0.4)))
    monkeypatch.setattr(samples, "limits", lambda progress, rng: samples.Limits(3, 1, 24, 28, 112))


def parameters(made: Trainer) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in named(made.network.parameters())}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, faces: tuple[str, ...]) -> None:
    whole = Trainer(SETTINGS, faces, tiny())
    before = parameters(whole)
    whole.run(tmp_path / "whole", until=3)
    half = Trainer(SETTINGS, faces, tiny())
    half.run(tmp_path / "half", until=1)
    rest = Trainer(SETTINGS, faces, tiny())
    rest.resume(tmp_path / "half" / trainer.STATE)
    assert rest.step == 1
    one, two = parameters(half), parameters(rest)
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
    state, other = half.optimizer.state, rest.optimizer.state
    assert all(mx.array_equal(state[name], other[name]).item() for name in state)
    rest.run(tmp_path / "half", until=3)
    one, two = parameters(whole), parameters(rest)
    assert all((one[name] == two[name]).all() for name in one)
    assert sum(float(np.abs(one[name] - before[name]).sum()) > 0 for name in one) > len(one) * 0.8
    lines = [json.loads(line) for line in (tmp_path / "half" / trainer.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3]
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_a_state_of_other_settings_is_refused(tmp_path: Path, faces: tuple[str, ...]) -> None:
    Trainer(SETTINGS, faces, tiny()).save(tmp_path)
    other = Trainer(Settings(steps=7, batch=3, group=2, seed=4, dtype="float32"), faces, tiny())
    with pytest.raises(ResumeError, match="steps = 7"):
        other.resume(tmp_path / trainer.STATE)
    with pytest.raises(ResumeError, match="no file"):
        other.resume(tmp_path / "nothing.safetensors")
    bigger = tiny() | {"num_hidden_layers": 2}
    with pytest.raises(ResumeError, match="architecture"):
        Trainer(SETTINGS, faces, bigger).resume(tmp_path / trainer.STATE)


def test_the_checkpoint_loads_as_qwen2_vl(tmp_path: Path, faces: tuple[str, ...]) -> None:
    made = Trainer(SETTINGS, faces)
    made.save(tmp_path)
    loaded = load(tmp_path / "checkpoint")
    assert loaded.family.name == "qwen2_vl"
    own = dict(named(made.network.model.parameters()))
    for name, value in named(loaded.model.parameters()):
        assert mx.allclose(value, own[name].astype(mx.bfloat16)).item(), name
    assert trainer.num_parameters(made.network) <= 10_000_000
    assert (tmp_path / "checkpoint/model.safetensors").stat().st_size <= 20_000_000


def test_padded_pictures_are_encoded_as_single_ones(faces: tuple[str, ...]) -> None:
    from vlm_models import MediaItem

    made = network.Network(tiny(), seed=2)
    items = [item for item in trainer.draw_batch(SETTINGS, 0, faces) if item.patches]
    batch = network.collate(items)
    features, _ = made.encode(batch, mx.float32)
    rows = features.reshape(batch.pixels.shape[0], -1, features.shape[-1])
    mean, std = (np.repeat(np.array(v, np.float32), 196) for v in (layout.IMAGE_MEAN, layout.IMAGE_STD))
    for row, item in enumerate(items):
        colors = ((item.patches[0].astype(np.float32) / 255 - mean) / std).reshape(-1, 3, 1, 196)
        flat = np.repeat(colors, 2, axis=2).reshape(len(colors), -1)
        media = MediaItem("image", {"patches": flat}, len(flat) // 4, grid=(1, *item.grids[0]))
        (alone,) = made.model.encode([media])
        np.testing.assert_allclose(np.array(rows[row, : len(flat) // 4]), np.array(alone.tokens), atol=2e-4)


def test_orthogonalised_matrices_have_equal_singular_values() -> None:
    rng = np.random.default_rng(1)
    for shape in ((2, 24, 24), (1, 40, 16), (1, 16, 40)):
        update = optimizer.orthogonalise(mx.array(rng.normal(size=shape).astype(np.float32)), mx.float32)
        values = np.linalg.svd(np.array(update), compute_uv=False)
        assert update.shape == shape
        assert values.min() > 0.2 and values.max() < 1.4


def test_the_rate_rises_holds_and_falls() -> None:
    settings = Settings(steps=1000)
    rates = [trainer.schedule(settings, step) for step in range(1000)]
    assert rates[0] < rates[5] < max(rates) == settings.rate == rates[300]
    assert rates[600] > rates[800] > rates[999] > 0


def test_the_rate_falls_to_zero_in_time() -> None:
    settings = Settings(steps=10**6, minutes=10.0, tail=0.5)
    assert trainer.schedule(settings, 20000, elapsed=120.0) == settings.rate
    assert trainer.schedule(settings, 20000, elapsed=450.0) == pytest.approx(settings.rate / 2)
    assert trainer.schedule(settings, 20000, elapsed=600.0) == 0.0


def test_a_run_ends_when_its_time_is_over(tmp_path: Path, faces: tuple[str, ...]) -> None:
    settings = Settings(steps=10**6, minutes=1e-6, batch=2, group=2, dtype="float32")
    made = Trainer(settings, faces, tiny())
    made.run(tmp_path, save_every=10**6)
    assert made.step == 1 and (tmp_path / trainer.STATE).is_file()
    later = Trainer(settings, faces, tiny())
    later.resume(tmp_path / trainer.STATE)
    assert later.elapsed == made.elapsed > 0


def test_a_run_may_start_from_a_checkpoint(tmp_path: Path, faces: tuple[str, ...]) -> None:
    first = Trainer(Settings(seed=5), faces)
    first.save(tmp_path)
    second = Trainer(Settings(seed=6), faces)
    second.start_from(tmp_path / "checkpoint")
    own = parameters(second)
    for name, value in parameters(first).items():
        np.testing.assert_allclose(own[name], value, atol=0.01, rtol=0.01)
    with pytest.raises(ResumeError, match="architecture"):
        Trainer(SETTINGS, faces, tiny()).start_from(tmp_path / "checkpoint")


def test_a_missing_font_folder_ends_with_a_named_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--fonts", str(tmp_path)]) == 2
    assert "expected DejaVu or Liberation fonts" in capsys.readouterr().err
