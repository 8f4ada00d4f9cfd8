"""Errors and speed of quantized activations on a tiny geometry, and what the bench command refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from click.testing import CliRunner

from vlm_benchmarks import activations
from vlm_benchmarks.cli import bench
from vlm_benchmarks.random_model import build


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["activations", *map(str, arguments)])
    return activations.main()


@pytest.mark.parametrize("mode", ["mxfp8", "nvfp4"])
def test_errors_are_the_formats_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str) -> None:
    common = ["check", "--geometry", "tiny", "--prompt-tokens", 8, "--image", 56, "--modes", mode]
    assert run(monkeypatch, *common, "--out", tmp_path / "e.json") == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert all(0 < row["against_definition"] < 0.006 < row["against_full_activations"] for row in result["layers"])
    (logits,) = result["logits"]
    assert logits["turned"] == 14 and logits["packed"] == 15  # the table of embeddings keeps its inputs
    assert 0.6 < logits["against_dequantized"] / logits["dithered_against_dequantized"] < 1.5
    assert logits["against_definition"] < logits["against_dequantized"]
    monkeypatch.setitem(activations.BOUNDS, mode, (0.006, 0.001, 1.0))
    assert run(monkeypatch, *common, "--out", tmp_path / "e.json") == 1


def test_a_variant_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    common = ["--geometry", "tiny", "--prompt-tokens", 8, "--image", 56, "--generate", 3, "--repeat", 1]
    assert run(monkeypatch, "measure", "--variant", "nvfp4-qa", *common, "--out", tmp_path / "a.json") == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["workload"]["quantize_activations"] and result["prompt_tps"] > 0
    assert run(monkeypatch, "table", tmp_path / "a.json") == 0
    assert "| nvfp4-qa  | 12 |" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_random_weights_of_the_floating_point_formats_are_numbers(mode: str) -> None:
    model, _, _ = build("tiny", bits=8 if mode == "mxfp8" else 4, mode=mode, layers=1)
    layer = model.language_model.layers[0].mlp.down_proj
    spread = float(layer.unpacked(mx.float32).std())
    assert len(model.language_model.layers) == 1 and 0.01 < spread < 0.03


@pytest.mark.parametrize("options", [["--mode", "affine"], ["--mode", "mxfp8", "--bits", "4"]])
def test_a_mode_without_its_bits_is_refused(options: list[str]) -> None:
    done = CliRunner().invoke(bench, ["--geometry", "tiny", *options])
    assert done.exit_code == 2
