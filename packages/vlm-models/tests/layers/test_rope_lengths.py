"""Rotary kinds that depend on the length: a prompt turns by its own, what follows by how far it has come; prompts stay whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from vlm_models import load
from vlm_models.core.attention import Attention
from vlm_models.errors import ConfigError
from vlm_models.layers.rope import Rope, RopeConfig, frequencies
from vlm_models.testing import golden
from vlm_models.testing.forward import greedy, prefill

GOLDENS = Path(__file__).parents[1] / "goldens"
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 3000.0, "factor": 2.0}
LONG = {"rope_type": "longrope", "rope_theta": 3000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG |= {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}
KINDS = pytest.mark.parametrize("given", [DYNAMIC, LONG], ids=["dynamic", "longrope"])


@KINDS
@pytest.mark.parametrize(("start", "length", "counted"), [(0, 10, [10] * 10), (0, 20, [20] * 20), (19, 2, [20, 21])])
def test_tokens_turn_by_the_length_that_counts(
    given: dict[str, Any], start: int, length: int, counted: list[int]
) -> None:
    config = RopeConfig.from_hf({"rope_parameters": given, "max_position_embeddings": 16}, 12)
    positions = np.arange(start, start + length, dtype=np.int32)
    cos, sin = Rope(config)(mx.array(positions[None, None]), plan=Attention.at(start, length))
    for index, (position, total) in enumerate(zip(positions, counted, strict=True)):
        base, factor = frequencies(config, total)
        assert np.allclose(np.array(cos[0, index]), np.cos(position * base) * factor, atol=1e-5)
        assert np.allclose(np.array(sin[0, index]), np.sin(position * base) * factor, atol=1e-5)


def test_decoders_without_a_place_for_lengths_refuse_such_kinds() -> None:
    config = RopeConfig.from_hf({"rope_parameters": DYNAMIC}, 12)
    with pytest.raises(ConfigError, match="dynamic"):
        config.fixed()


@KINDS
def test_longer_prompts_are_computed_whole(given: dict[str, Any], tmp_path: Path) -> None:
    golden.materialise(golden.Golden(GOLDENS / "llava/base"), tmp_path, "transformers")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {"rope_parameters": given, "max_position_embeddings": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path)
    tokens = np.arange(30, 54, dtype=np.int32)
    short, long = (loaded.processing().prompt(part, []) for part in (tokens[:16], tokens))
    assert short.blocks == () and short.legal_cut(5) == 5
    assert long.legal_cut(5) == 24
    whole, cut = (prefill(loaded.model, long, chunk=chunk).logits for chunk in (None, 5))
    assert np.allclose(whole, cut, atol=1e-6)
    # nothing is seen that stands behind: the block only keeps the prompt whole
    changed = tokens.copy()
    changed[-1] = 3
    other = prefill(loaded.model, loaded.processing().prompt(changed, [])).logits
    assert np.allclose(whole[:-1], other[:-1], atol=1e-5) and not np.allclose(whole[-1], other[-1], atol=1e-3)
    assert len(greedy(loaded.model, short, 6)) == 6
