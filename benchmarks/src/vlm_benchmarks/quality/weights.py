"""Quantized weights of the demo model: accuracy by task and divergence from the full model, calibrated against plain rounding.

    python -m vlm_benchmarks.quality.weights FOLDER [--checkpoint demo] [--items 100] [--variants 4 4-gptq ...]

A variant is BITS, BITS-gptq, BITS-gBITS (group size), or a mode. Calibration and the divergence's prompts are drawn as the demo's
training pictures are, with seeds of their own; accuracy is on its held-out items. What FOLDER holds already is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_convert import convert, verify
from vlm_train.recipes.demo import evaluation, fonts, samples
from vlm_train.recipes.demo.answers import evaluate

VARIANTS = ("full", "8", "4", "4-gptq", "3", "3-gptq")
# those that a small loss shows in first, and one of each other kind
TASKS = tuple(task for task in evaluation.TARGETS if task not in ("talk", "bare", "hello", "color", "shape"))


def options_of(variant: str) -> dict[str, Any]:
    """Of `convert`, from a name such as 4, 4-gptq, 3-g128-gptq or nvfp4."""
    head, *rest = variant.split("-")
    if head in ("mxfp4", "mxfp8", "nvfp4"):
        return {"quantize": True, "q_mode": head}
    result: dict[str, Any] = {"quantize": True, "q_bits": int(head)}
    for part in rest:
        if part == "gptq":
            result["q_method"] = part
        elif part.startswith("g"):
            result["q_group_size"] = int(part[1:])
        else:
            raise ValueError(f"variant {variant!r}: expected BITS[-gSIZE][-gptq] or a mode")
    return result


def write_data(path: Path, faces: Sequence[str], count: int, seed: str) -> Path:
    """Training-like samples as JSON lines with pictures beside them; only single-turn ones."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        sample = samples.draw(1.0, faces, rng)
        if sample.is_bare or sample.thinking:
            continue
        names = []
        for number, image in enumerate(sample.images):
            names.append(f"{path.stem}-{len(rows)}-{number}.png")
            image.save(path.parent / names[-1])
        rows.append({"prompt": sample.exchanges[0].question, "image": names, "answer": sample.exchanges[0].answer})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measure(
    variant: str, given: argparse.Namespace, faces: Sequence[str], tuning: Path, judging: Path
) -> dict[str, Any]:
    """Convert, compare, ask."""
    folder: Path | str = given.checkpoint
    result: dict[str, Any] = {"variant": variant, "items": given.items, "checkpoint": given.checkpoint}
    if variant != "full":
        options, start = options_of(variant), time.perf_counter()
        if "q_method" in options:
            options |= {"calibration": tuning, "calibration_samples": given.samples}
        folder = given.folder / f"checkpoint-{variant}"
        done = convert(given.checkpoint, folder, overwrite=True, **options)
        result |= {"seconds": time.perf_counter() - start, "bits_per_weight": done.plan.bits_per_weight}
        result["bytes"] = done.plan.after
        if done.refinement is not None:
            result["errors"] = done.refinement.errors
        compared = verify(given.checkpoint, folder, data=judging, num_prompts=given.judged)
        result |= {"kl": compared.kl, "top1": compared.top1, "positions": compared.num_positions}
    scores = evaluate(folder, faces, items=given.items, seed=given.seed, tasks=given.tasks)
    result["right"] = {score.task: score.right for score in scores}
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: one column per variant."""
    names = [result["variant"] for result in results]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]

    def row(title: str, cells: Sequence[str]) -> None:
        lines.append(f"| {title} | {' | '.join(cells)} |")

    row("MB", [f"{r['bytes'] / 1e6:.2f}" if "bytes" in r else "-" for r in results])
    row("KL, nats per position", [f"{r['kl']:.4f}" if "kl" in r else "-" for r in results])
    row("same best token", [f"{100 * r['top1']:.2f} %" if "top1" in r else "-" for r in results])
    for task in results[0]["right"]:
        row(f"{task}, of {results[0]['items']}", [str(r["right"].get(task, "-")) for r in results])
    whole = len(results[0]["right"]) * results[0]["items"]
    totals = [sum(r["right"].values()) for r in results]
    row(f"all, of {whole}", [f"{total} ({100 * total / whole:.2f} %)" for total in totals])
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--items", type=int, default=100, help="per task")
    parser.add_argument("--tasks", nargs="+", choices=list(evaluation.TARGETS), default=list(TASKS), metavar="TASK")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--samples", type=int, default=128, help="to calibrate on")
    parser.add_argument("--judged", type=int, default=100, help="prompts of the divergence")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--fonts", nargs="+", default=list(fonts.FOLDERS))
    given = parser.parse_args()
    faces = fonts.find(given.fonts)
    tuning = write_data(given.folder / "data/tuning.jsonl", faces, given.samples + given.samples // 4, "tuning")
    judging = write_data(given.folder / "data/judging.jsonl", faces, given.judged, "judging")
    results = []
    for variant in given.variants:
        path = given.folder / f"{variant}.json"
        if not path.exists():
            path.write_text(json.dumps(measure(variant, given, faces, tuning, judging), indent=1) + "\n")
            sys.stderr.write(f"{variant} done\n")
        results.append(json.loads(path.read_text()))
    text = table(results)
    (given.folder / "weights.md").write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
