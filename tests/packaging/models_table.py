"""Write docs/models/README.md: every model_type, what it takes, and how far its goldens are from the reference.

    python tests/packaging/models_table.py [--check]

--check measures nothing: it exits 1 if a row of the registry has no line in the table, or a family no page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from vlm_models import TABLE, family, load
from vlm_models.testing import golden
from vlm_models.testing.logits import compute

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/models"
GOLDENS = ROOT / "packages/vlm-models/tests/goldens"
SHARED_PAGES = {"qwen3_vl_moe": "qwen3_vl", "qwen3_5_moe": "qwen3_5"}


def parity(model_type: str) -> tuple[int, float, float]:
    """Cases measured, and the largest overall and worst relative error over all layouts."""
    cases, overall, worst = 0, 0.0, 0.0
    for item in golden.find(GOLDENS):
        if item.config("hub").get("model_type") != model_type:
            continue
        for layout in item.manifest["layouts"]:
            with tempfile.TemporaryDirectory() as folder:
                loaded = load(golden.materialise(item, Path(folder), layout))
                for case in item.cases.values():
                    theirs = case.outputs["logits"]
                    ours = compute(loaded, case.inputs)["logits"][..., : theirs.shape[-1]]
                    errors = golden.logit_errors(ours, theirs[..., : ours.shape[-1]], case.valid)
                    cases, overall, worst = cases + 1, max(overall, errors.overall), max(worst, errors.worst)
    return cases, overall, worst


def page_of(model_type: str) -> str:
    name = SHARED_PAGES.get(model_type, model_type)
    return name if (PAGES / f"{name}.md").is_file() else TABLE[model_type]


def table() -> str:
    lines = [
        "# Supported models",
        "",
        "Written by `python tests/packaging/models_table.py`. Parity: relative error of the logits in float32 against",
        "transformers over all positions of all goldens, and at the worst position (the goldens' own rounding is 6.5e-6).",
        "",
        "| model_type | takes | cases | overall | worst |",
        "|---|---|---|---|---|",
    ]
    for model_type in sorted(TABLE):
        cases, overall, worst = parity(model_type)
        takes = ", ".join(("text", *family(model_type).modalities))
        figures = f"{cases} | {overall:.1e} | {worst:.1e}" if cases else "as its family | | "
        lines.append(f"| [{model_type}]({page_of(model_type)}.md) | {takes} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    path = PAGES / "README.md"
    if not parser.parse_args().check:
        path.write_text(table(), encoding="utf-8")
        return 0
    written = path.read_text(encoding="utf-8")
    missing = [name for name in TABLE if f"| [{name}](" not in written]
    missing += [name for name in TABLE if not (PAGES / f"{page_of(name)}.md").is_file()]
    for name in missing:
        sys.stderr.write(f"docs/models has no line or page for {name}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
