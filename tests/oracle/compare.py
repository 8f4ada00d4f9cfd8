"""Compare our logits with the reference's: `python tests/oracle/compare.py CHECKPOINT INPUTS.npz OURS.npz`.

INPUTS holds arrays under the names of transformers' forward arguments; OURS is what `python -m vlm_models.testing.logits` wrote:
`logits` at every position and, where greedy tokens were asked for, `tokens`. Positions where attention_mask is zero do not
count. Exits 1 unless logits agree to 1e-4 over all and 1e-3 at the worst position, and tokens agree up to ties.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import environment

environment.prepare()
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402  (environment comes first)
import torch  # noqa: E402
import transformers  # noqa: E402
from maker import greedy  # noqa: E402
from shared import golden  # noqa: E402

transformers.utils.logging.disable_progress_bar()


def reference_model(checkpoint: str) -> transformers.PreTrainedModel:
    """The class that the checkpoint's configuration names, in float32 with eager attention; incomplete loading is an error."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    kind = getattr(transformers, (config.architectures or ["AutoModelForImageTextToText"])[0])
    model, info = kind.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    left = {name: value for name, value in info.items() if value}
    if left:
        raise SystemExit(f"the reference does not load {checkpoint} whole: {left}")
    return model.eval()


def main() -> int:
    """Print both errors and the tokens' verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("inputs")
    parser.add_argument("ours")
    arguments = parser.parse_args()
    with np.load(arguments.inputs) as arrays:
        inputs = {
            name: torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array)
            for name, array in arrays.items()
        }
    with np.load(arguments.ours) as arrays:
        ours = dict(arrays)
    model = reference_model(arguments.checkpoint)
    logits = model(**inputs, use_cache=False).logits.numpy()
    if ours["logits"].shape != logits.shape:
        print(f"shapes differ: ours {ours['logits'].shape}, reference {logits.shape}")
        return 1
    mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
    errors = golden.logit_errors(ours["logits"], logits, None if mask is None else mask.numpy().astype(bool))
    print(f"logits: relative error {errors.overall:.2e} over all positions, {errors.worst:.2e} at the worst")
    passed = errors.overall <= 1e-4 and errors.worst <= 1e-3
    if "tokens" in ours:
        steps = ours["tokens"].shape[-1]
        given = {name: value for name, value in inputs.items() if name not in ("position_ids", "decoder_input_ids")}
        expected = {name: value.numpy() for name, value in greedy(model, given, steps).items()}
        mine = ours["tokens"].reshape(expected["tokens"].shape)
        for row, (a, b, margins) in enumerate(zip(mine, expected["tokens"], expected["margins"])):
            wrong, ties = golden.disagreements(a, b, margins)
            print(f"row {row}: {'step ' + str(wrong[0]) + ' differs' if wrong else 'tokens agree'}, ties {ties}")
            passed &= not wrong
    print("parity holds" if passed else "parity does not hold")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
