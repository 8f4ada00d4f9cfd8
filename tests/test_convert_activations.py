"""Quantized activations of a converted checkpoint: what is turned, what is named, and that it still answers."""

from __future__ import annotations

import logging
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from vlm_convert import QQLinear, convert
from vlm_models.testing.forward import prefill
from vlm_runtime import generate, load
from vlm_runtime.loading import quantize as loading


@pytest.fixture(scope="module", params=["mxfp8", "nvfp4"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / request.param
    convert("demo", folder, quantize=True, q_mode=request.param)
    return folder


def test_layers_with_and_without_bias_are_turned_and_the_rest_is_named(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vlm_runtime.loading"):
        model, processor = load(checkpoint, quantize_activations=True)
    turned = {path: layer for path, layer in model.named_modules() if isinstance(layer, QQLinear)}
    assert len(turned) == 42
    assert {"bias" in layer for layer in turned.values()} == {True, False}
    assert "language_model.embed_tokens" in caplog.text
    assert generate(model, processor, "What is 2 + 3?", max_tokens=8, temperature=0.0).text.strip() == "5"


def test_activations_change_the_logits_by_the_formats_error(checkpoint: Path) -> None:
    (plain, processor), (turned, _) = load(checkpoint), load(checkpoint, quantize_activations=True)
    prompt = processor.processing.prompt(processor.tokenizer.encode("What is 2 + 3?"), [])
    ours, reference = prefill(turned, prompt).logits, prefill(plain, prompt).logits
    error = np.linalg.norm(ours - reference) / np.linalg.norm(reference)
    assert 1e-3 < error < (0.15 if checkpoint.name == "mxfp8" else 0.5)


def test_a_checkpoint_without_the_flag_runs_with_a_note_on_cuda(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load(checkpoint)
    monkeypatch.setattr(loading.mx.cuda, "is_available", lambda: True)
    with caplog.at_level(logging.WARNING, "vlm_runtime.loading"):
        loading.note_full_inputs(model)
    assert f"{checkpoint.name} weights with full activations" in caplog.text


def test_on_metal_the_flag_is_taken_with_a_note(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load(checkpoint)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    with caplog.at_level(logging.WARNING, "vlm_runtime.loading"):
        assert loading.quantize_inputs(model) == 0
    assert "not needed on Metal" in caplog.text
    assert not any(isinstance(layer, QQLinear) for _, layer in model.named_modules())
