"""mlx-vlm's half of the check, in an environment of its own: `python tests/oracle/peer/theirs.py WORK`.

Writes FAMILY/theirs-plain and FAMILY/theirs-4bit from FAMILY/original, and FAMILY/CHECKPOINT.CASE.theirs.npz: logits of every
checkpoint that either side wrote. What fails is written down in
FAMILY/CHECKPOINT.CASE.failed.txt and counted by run.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_vlm.convert import convert
from mlx_vlm.models.cache import make_prompt_cache
from mlx_vlm.utils import load_model

CASES = ("single", "multi", "text")
CHECKPOINTS = ("original", "ours-plain", "ours-4bit", "theirs-plain", "theirs-4bit")
# what its models take by position, by other names, or not at all
GIVEN = ("input_ids", "pixel_values", "attention_mask", "mm_token_type_ids", "token_type_ids")
FAILURES = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OSError)


def logits(model: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """float32 [B, L, V] of one unpadded row, by the two steps that its generation takes."""
    if not arrays["attention_mask"].all():
        raise ValueError("a case with padding")
    tokens, mask = mx.array(arrays["input_ids"]), mx.array(arrays["attention_mask"])
    rest = {name: mx.array(value) for name, value in arrays.items() if name not in GIVEN}
    pixels = mx.array(arrays["pixel_values"]) if "pixel_values" in arrays else None
    made = model.get_input_embeddings(tokens, pixels, mask=mask, **rest)
    extra = {name: value for name, value in made.to_dict().items() if name != "inputs_embeds" and value is not None}
    result = model.language_model(tokens, inputs_embeds=made.inputs_embeds, cache=make_prompt_cache(model), **extra)
    return np.array(result.logits.astype(mx.float32))


def main(work: Path) -> None:
    for family in sorted(path.parent for path in work.glob("*/original")):
        for name, options in (("plain", {}), ("4bit", {"quantize": True, "q_bits": 4, "q_group_size": 64})):
            convert(str(family / "original"), str(family / f"theirs-{name}"), **options)
        for checkpoint in CHECKPOINTS:
            for case in CASES:
                with np.load(family / f"{case}.npz") as arrays:
                    given = {name: arrays[name] for name in arrays.files}
                try:
                    model = load_model(family / checkpoint)  # anew: its models keep positions of the last prompt
                    np.savez(family / f"{checkpoint}.{case}.theirs.npz", logits=logits(model, given))
                except FAILURES as error:  # what it raises is a result of the check
                    (family / f"{checkpoint}.{case}.failed.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
