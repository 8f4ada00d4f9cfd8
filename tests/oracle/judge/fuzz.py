"""Every number, switch and activation of a family's configuration changed one at a time:
`python tests/oracle/judge/fuzz.py OUT [FAMILY ...]`.

Writes folders as `make.py` does, one per key that the reference takes changed: OUT/FAMILY/KEY. What it refuses is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make  # the environment comes with it
import numpy as np
from variant import Variant

FAMILIES = sorted({variant.family for variant in make.VARIANTS})
# not of the arithmetic, or covered by variants because inputs change with them
SKIPPED = ("_token_id", "_token_index", "dropout", "initializer", "vocab_size", "dtype", "use_cache", "chunk_size_feed")
SKIPPED += (
    "output_attentions",
    "output_hidden",
    "return_dict",
    "transformers_version",
    "num_labels",
    "drop_path",
    "std",
    "label",
)


def changed(key: str, value: Any) -> list[Any]:
    """Values to try in place of one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return ["relu", "gelu"] if "act" in key.split("_")[-1] or key.endswith("activation_function") else []
    if isinstance(value, float):
        return [value * 1.7 if value else 0.3]
    if isinstance(value, int):
        return [value + 1, value * 2]
    return [2, 3.0] if value is None else []


def paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys, with the names of the objects they are in, and their values."""
    for key, value in values.items():
        if isinstance(value, dict) and key not in ("id2label", "label2id"):
            yield from paths(value, (*above, key))
        elif not any(part in str(key) for part in SKIPPED):
            yield (*above, key), value


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """{a: {b: value}} of (a, b)."""
    return {path[0]: value if len(path) == 1 else nested(path[1:], value)}


def fuzz(family: str, out: Path) -> int:
    """Write a family's folders; how many."""
    module = importlib.import_module(f"families.{family.removesuffix('_moe')}")
    count = 0
    for spec in (spec for spec in module.specs() if spec.family == family):
        case = spec.cases()[0]
        case.greedy = 2
        for path, value in paths(spec.build().config.to_dict()):
            for number, new in enumerate(changed(path[-1], value)):
                variant = Variant(family, "", nested(path, new), hub=False)
                folder = out / family / f"{spec.name}-{'.'.join(path)}-{number}"
                with contextlib.suppress(*make.REFUSALS, AssertionError, OverflowError, ZeroDivisionError):
                    model = make.build_model(spec, variant, 1)
                    folder.mkdir(parents=True, exist_ok=True)
                    make.write_layouts(model, spec, variant, folder)
                    make.write_case(model, case, folder)
                    count += 1
                    continue
                for left in folder.glob("*.npz"):
                    left.unlink()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("families", nargs="*", default=FAMILIES)
    given = parser.parse_args()
    np.seterr(all="ignore")
    for family in given.families:
        print(f"{family}: {fuzz(family, given.out)} keys", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
