"""Every family converts at 4 and 8 bits and runs; converting again changes nothing."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from vlm_convert import convert, verify
from vlm_models import TABLE, load
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

GOLDENS = Path(__file__).parents[1] / "packages/vlm-models/tests/goldens"
FIRST = {
    g.config("hub")["model_type"]: g
    for g in reversed(list(golden.find(GOLDENS)))
    if g.config("hub").get("model_type") in TABLE
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("model_type", FIRST)
def test_family_converts_and_runs(model_type: str, bits: int, tmp_path: Path) -> None:
    source = golden.materialise(FIRST[model_type], tmp_path / "source", "hub")
    options = {"quantize": True, "q_bits": bits, "q_group_size": 32, "quantize_vision": True}
    done = convert(str(source), tmp_path / "once", **options)
    convert(str(tmp_path / "once"), tmp_path / "twice", **options)
    first, second = (dict(mx.load(str(tmp_path / name / "model.safetensors"))) for name in ("once", "twice"))
    assert first.keys() == second.keys()
    assert all(mx.array_equal(first[name], second[name], equal_nan=True) for name in first)
    case = next(iter(FIRST[model_type].cases.values()))
    logits = compute(load(tmp_path / "once"), case.inputs)["logits"]
    assert np.isfinite(logits).all()
    changed = not np.allclose(logits, compute(load(source), case.inputs)["logits"], atol=1e-6)
    assert changed == bool(done.plan.layers)
    assert np.isfinite(verify(source, tmp_path / "once", num_prompts=1).kl)
