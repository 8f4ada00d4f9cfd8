"""Every golden of every family against the reference, and the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_models.layers.linear import Quantization
from vlm_models.registry import TABLE
from vlm_models.testing import conformance, golden

ROOT = Path(__file__).parent / "goldens"
GOLDENS = {g.name: g for g in golden.find(ROOT) if g.config("hub").get("model_type") in TABLE}
FIRST = {name.split("/")[0]: g for name, g in reversed(GOLDENS.items())}

each_golden = pytest.mark.parametrize("name", GOLDENS)
each_layout = pytest.mark.parametrize(
    ("name", "layout"),
    [(name, layout) for name, g in GOLDENS.items() for layout in g.layouts if layout in golden.LAYOUTS],
)


@each_layout
def test_logits_and_greedy_tokens_equal_the_reference(name: str, layout: str) -> None:
    conformance.assert_parity(GOLDENS[name], layout)


@each_golden
def test_chunks_equal_one_shot(name: str) -> None:
    conformance.assert_chunks_agree(GOLDENS[name])


@each_golden
def test_batch_equals_singles(name: str) -> None:
    conformance.assert_batch_equals_singles(GOLDENS[name])


@each_layout
def test_rules_are_idempotent(name: str, layout: str) -> None:
    conformance.assert_rules_idempotent(GOLDENS[name], layout)


@each_golden
def test_features_depend_on_content_alone(name: str) -> None:
    conformance.assert_encode_depends_on_content_alone(GOLDENS[name])


@pytest.mark.parametrize("how", [None, Quantization(8, 32), Quantization(4, 32)], ids=["plain", "8bit", "4bit"])
@pytest.mark.parametrize("family", FIRST)
def test_saves_and_loads(family: str, how: Quantization | None) -> None:
    conformance.assert_saves_and_loads(FIRST[family], how)
