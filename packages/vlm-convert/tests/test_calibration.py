"""Calibrated conversion of the embedded model: data, layers in order, and the result against plain rounding."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vlm_convert import Conversion, ConvertError, convert, verify
from vlm_convert.calibration import prepared, samples
from vlm_convert.cli import convert as convert_command
from vlm_convert.drawing import generated
from vlm_convert.refine import grouped
from vlm_convert.verify import text_positions
from vlm_convert.watching import call_order, feed, input_moments, listening
from vlm_models import Loaded, load, module_at, packed_layers
from vlm_models.testing.forward import prefill
from vlm_runtime import resolve_checkpoint

DEMO = resolve_checkpoint("demo")


@pytest.fixture(scope="module")
def demo() -> Loaded:
    return load(DEMO)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines with pictures; half of them with answers."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for index, sample in enumerate(generated(30)):
        names = []
        for number, image in enumerate(sample.images):
            names.append(f"{index}-{number}.png")
            Image.fromarray(image).save(folder / names[-1])
        rows.append({"prompt": sample.prompt, "image": names} | ({"answer": "A red circle."} if index % 2 else {}))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def converted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    path = tmp_path_factory.mktemp("converted") / "out"
    options = {"quantize": True, "q_bits": 3, "q_method": "gptq", "calibration": data, "calibration_samples": 24}
    return convert("demo", path, **options)


def test_generated_samples_are_the_same_for_the_same_seed() -> None:
    first, second = generated(10), generated(10)
    assert [s.prompt for s in first] == [s.prompt for s in second] != [s.prompt for s in generated(10, 1)]
    assert all(np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x.images, y.images))
    assert {len(s.images) for s in first} == {0, 1, 2}
    assert {len(s.images) for s in generated(10, most_pictures=0)} == {0}


def test_layers_are_calibrated_in_the_order_they_run(demo: Loaded) -> None:
    layers = {f"language_model.layers.{i}.mlp.{n}": None for i in (1, 0) for n in ("down_proj", "up_proj", "gate_proj")}
    layers = {path: module_at(demo.model, path) for path in layers}
    order = call_order(demo.model, layers, feed(demo.model, layers, prepared(demo, DEMO, None, 1))[0])
    ends = ("gate_proj", "up_proj", "down_proj")
    assert order == [f"language_model.layers.{i}.mlp.{name}" for i in (0, 1) for name in ends]
    assert grouped(order) == [order[:3], order[3:]]


def test_moments_are_those_of_the_inputs(demo: Loaded) -> None:
    prompts = prepared(demo, DEMO, None, 2)
    path = "language_model.layers.0.self_attn.o_proj"
    layer, seen = module_at(demo.model, path), []
    kind = type(layer)
    with listening({path: layer}, lambda _, x: seen.append(np.array(x.reshape(-1, x.shape[-1]).astype(mx.float32)))):
        before = [prefill(demo.model, prompt).logits for prompt in prompts]
    beyond = "language_model.layers.1.mlp.gate_proj"
    fed = feed(demo.model, {path: layer}, prompts)
    moments = input_moments(demo.model, {path: layer}, fed, (beyond, module_at(demo.model, beyond)))
    x = np.concatenate(seen).astype(np.float64)
    assert np.allclose(moments[path], x.T @ x, rtol=1e-3, atol=1e-2 * np.abs(x.T @ x).max())
    assert type(layer) is kind
    assert np.array_equal(prefill(demo.model, prompts[0]).logits, before[0])


def test_calibrated_is_better_than_plain_at_equal_bits(converted: Conversion, data: Path, tmp_path: Path) -> None:
    assert converted.path is not None and converted.refinement is not None
    plain = convert("demo", tmp_path / "plain", quantize=True, q_bits=3)
    assert plain.plan.after == converted.plan.after and plain.plan.layers == converted.plan.layers
    errors = converted.refinement.errors
    assert len(errors) == 43 and all(better <= worse for worse, better in errors.values())
    assert not converted.refinement.plain_only
    assert sum(b for _, b in errors.values()) < 0.6 * sum(a for a, _ in errors.values())
    assert converted.refinement.kl[1] < converted.refinement.kl[0]
    first, second = (verify("demo", folder, data=data, num_prompts=30).kl for folder in (plain.path, converted.path))
    assert second < first
    card = (converted.path / "README.md").read_text()
    assert "calibrated on 24 prompts" in card and "KL on held-out" in card


def test_the_result_is_an_ordinary_checkpoint(converted: Conversion, tmp_path: Path) -> None:
    again = convert(str(converted.path), tmp_path / "again")
    first, second = (dict(mx.load(str(Path(path) / "model.safetensors"))) for path in (converted.path, again.path))
    assert first.keys() == second.keys() and all(mx.array_equal(first[name], second[name]) for name in first)
    assert set(packed_layers(load(converted.path).model).values()) == {
        converted.plan.layers[next(iter(converted.plan.layers))]
    }


def test_a_folder_of_pictures_and_texts_is_read(tmp_path: Path, demo: Loaded) -> None:
    Image.new("RGB", (56, 56), (200, 10, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("Say hello.")
    found = samples(tmp_path, 4, 1)
    assert [s.source for s in found] == ["a.png", "b.txt"]
    with_picture, text = prepared(demo, DEMO, tmp_path, 4)
    assert len(with_picture.items) == 1 and not text.items
    assert 0 < text_positions(with_picture).sum() < len(with_picture) and text_positions(text).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.jsonl", "{", "line 1: not valid JSON"),
        ("a.jsonl", '{"prompt": 3}', "line 1: expected an object"),
        ("a.jsonl", '{"prompt": "x", "audio": "a.wav"}', "line 1: expected an object"),
        ("a.jsonl", '{"prompt": "x", "image": "nothing.png"}', "nothing.png"),
        ("a.csv", "x", "expected a folder or a .jsonl"),
    ],
)
def test_unreadable_data_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConvertError, match=message):
        samples(tmp_path / name, 4, 1)


def test_pictures_for_a_model_without_them_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ConvertError, match=r"a.png has more pictures than the 0"):
        samples(tmp_path, 4, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q_method": "gptq"}, "needs quantize"),
        ({"q_method": "awq", "quantize": True}, "expected one of plain, gptq"),
        ({"quantize": True, "calibration": "x"}, "needs a calibrated method"),
        ({"quantize": True, "q_method": "gptq", "calibration_samples": 2}, "4 and more"),
        ({"quantize": True, "q_method": "gptq", "q_mode": "nvfp4", "calibration_samples": 4}, "no chosen layer"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        convert("demo", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_what_calibration_brought(tmp_path: Path, data: Path) -> None:
    arguments = ["--hf-path", "demo", "--mlx-path", str(tmp_path / "out"), "-q", "--q-method", "gptq"]
    arguments += ["--calibration", str(data), "--calibration-samples", "8"]
    done = CliRunner().invoke(convert_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "layer output error  plain" in done.output
