"""Checkpoints and inputs of configurations that no golden has: `python tests/oracle/judge/make.py OUT [FAMILY[/VARIANT] ...]`.

For each variant a folder OUT/FAMILY/VARIANT with `transformers/` (what save_pretrained writes), `hub/` (as published) and
per case NAME.inputs.npz (the reference's arguments) and NAME.expected.npz (logits, valid, tokens, margins). Pictures have
sizes that depend on --seed. Runs in the oracle's environment; `run.py` compares.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import random
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import environment  # noqa: E402  (paths come first, then the environment)

environment.prepare()
warnings.filterwarnings("ignore")

import inputs  # noqa: E402
import maker  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from huggingface_hub.errors import StrictDataclassError  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from variant import Variant, merged  # noqa: E402
from variants import VARIANTS  # noqa: E402

transformers.utils.logging.disable_progress_bar()
_build = inputs.build
# what the reference raises for a configuration or inputs that it does not take
REFUSALS = (ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError, StrictDataclassError)


def resized(seed: int) -> Any:
    """inputs.build with every picture's sides changed by up to a half, as the seed wants it."""

    def build(processor: Any, name: str, text: list[str], *, pictures: Any = (), **rest: Any) -> Any:
        chance = random.Random(f"{seed}/{name}")

        def changed(size: tuple[int, ...]) -> tuple[int, ...]:
            sides = [max(2, round(side * chance.uniform(0.6, 1.6))) for side in size[:2]]
            return size if len(size) == 3 else tuple(sides)

        nested = bool(pictures) and (not pictures[0] or not isinstance(pictures[0][0], int))
        new = [[changed(s) for s in row] for row in pictures] if nested else [changed(s) for s in pictures]
        return _build(processor, name, text, pictures=new, **rest)

    return build


def golden_spec(module: Any, variant: Variant) -> Any:
    """The maker's Spec that the variant changes."""
    specs = [spec for spec in module.specs() if spec.family == variant.family]
    return next(spec for spec in specs if not variant.base or spec.name == variant.base)


def build_model(spec: Any, variant: Variant, seed: int) -> Any:
    """The reference model of a variant, with its weights."""
    base = spec.build()
    values = merged(base.config.to_dict(), variant.changes)
    config = type(base.config).from_dict(values)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = type(base)(config).eval().float()
    if not variant.initial:
        maker.fill(model, spec)
    return model


def write_layouts(model: Any, spec: Any, variant: Variant, folder: Path) -> None:
    """Both layouts of the checkpoint."""
    model.save_pretrained(folder / "transformers")
    tensors: dict[str, np.ndarray] = {}
    for path in sorted((folder / "transformers").glob("*.safetensors")):
        tensors |= load_file(path)
    for layout in ("transformers", "hub") if variant.hub else ("transformers",):
        (folder / layout).mkdir(exist_ok=True)
        for part in ("shared", layout):
            for name, content in spec.files.get(part, {}).items():
                maker.write(folder / layout / name, content)
    if not variant.hub:
        return
    config = json.loads((folder / "transformers/config.json").read_text())
    maker.write(folder / "hub/config.json", spec.hub_config(config))
    named = spec.to_hub(dict(tensors)) if spec.to_hub else tensors
    contiguous = {name: np.array(array, order="C") for name, array in named.items()}
    save_file(contiguous, folder / "hub/model.safetensors", metadata={"format": "pt"})


def write_case(model: Any, case: Any, folder: Path) -> None:
    """Arguments and what the reference makes of them."""
    model = copy.deepcopy(model)  # the reference remembers the longest prompt where rotary frequencies depend on it
    given = {name: torch.as_tensor(value) for name, value in case.inputs.items()}
    forward = {name: value for name, value in given.items() if name not in case.not_for_forward}
    expected: dict[str, Any] = {"logits": model(**forward, use_cache=False).logits}
    if case.greedy:
        kept = {name: value for name, value in given.items() if name not in case.not_for_greedy}
        expected |= maker.greedy(model, kept, 6)
    mask = given.get("decoder_attention_mask" if "decoder_input_ids" in given else "attention_mask")
    shape = expected["logits"].shape[:2]
    expected["valid"] = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
    if not torch.isfinite(expected["logits"][expected["valid"]]).all():
        raise ValueError(f"{case.name}: the reference's logits are not finite")
    np.savez(folder / f"{case.name}.inputs.npz", **{name: value.numpy() for name, value in forward.items()})
    np.savez(folder / f"{case.name}.expected.npz", **{name: value.numpy() for name, value in expected.items()})


def chosen_cases(module: Any, spec: Any, names: Any) -> list[Any]:
    """The Spec's own cases, or those of the names wherever the module has them."""
    own = {case.name: case for case in spec.cases()}
    if names is None:
        return list(own.values())
    if not set(names) <= set(own):
        own = {case.name: case for case in module.cases()} | own
    return [own[name] for name in names]


def make(variant: Variant, out: Path, seed: int) -> Path:
    """Write one variant's folder."""
    module = importlib.import_module(f"families.{variant.family.removesuffix('_moe')}")
    folder = out / variant.family / variant.name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    inputs.build = resized(seed)
    with variant.applied(module):
        spec = golden_spec(module, variant)
        model = build_model(spec, variant, seed)
        write_layouts(model, spec, variant, folder)
        if variant.own:
            cases = variant.own(module)
        else:
            cases = chosen_cases(module, golden_spec(module, variant), variant.cases)
        for case in cases:
            write_case(model, case, folder)
    if variant.refuses:
        (folder / "refuses.txt").write_text(variant.refuses)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("wanted", nargs="*", help="FAMILY or FAMILY/VARIANT; all where none is named")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    failed = 0
    for variant in VARIANTS:
        full = f"{variant.family}/{variant.name}"
        if given.wanted and variant.family not in given.wanted and full not in given.wanted:
            continue
        start = time.perf_counter()
        try:
            make(variant, given.out, given.seed)
        except REFUSALS as error:
            failed += 1
            print(f"{full}: not made: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        print(f"{full}: {time.perf_counter() - start:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
