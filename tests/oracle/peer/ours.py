"""Our half of the check against mlx-vlm, in the project's environment: `python tests/oracle/peer/ours.py prepare|logits WORK`.

prepare: FAMILY/original (published layout), FAMILY/ours-plain, FAMILY/ours-4bit, and CASE.npz of inputs.
logits: of what both sides wrote, FAMILY/CHECKPOINT.CASE.ours.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from vlm_convert import convert
from vlm_models import load
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

CHECKPOINTS = ("original", "ours-plain", "ours-4bit", "theirs-plain", "theirs-4bit")


def prepare(work: Path) -> None:
    """Raises where a conversion does."""
    for found in golden.find(work / "goldens"):
        folder = work / found.folder.parent.name
        golden.materialise(found, folder / "original", "hub")
        convert(str(folder / "original"), folder / "ours-plain", overwrite=True)
        convert(str(folder / "original"), folder / "ours-4bit", quantize=True, overwrite=True)
        for name, case in found.cases.items():
            np.savez(folder / f"{name}.npz", **case.inputs)
            np.savez(folder / f"reference.{name}.npz", logits=case.outputs["logits"])


def logits(work: Path) -> None:
    """Raises where a checkpoint does not load."""
    for found in golden.find(work / "goldens"):
        folder = work / found.folder.parent.name
        for checkpoint in CHECKPOINTS:
            loaded = load(folder / checkpoint, dtype=mx.float32)
            for name, case in found.cases.items():
                values = compute(loaded, case.inputs)["logits"]
                np.savez(folder / f"{checkpoint}.{name}.ours.npz", logits=values)


if __name__ == "__main__":
    {"prepare": prepare, "logits": logits}[sys.argv[1]](Path(sys.argv[2]))
