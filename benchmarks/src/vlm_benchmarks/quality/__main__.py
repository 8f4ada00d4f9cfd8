"""`python -m vlm_benchmarks.quality FOLDER`: measure and write JSON, Markdown and the plot.

Parts that are left out are taken from an earlier run's JSON in the folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import attention_rows, distortion_rows, inner_product_rows, plot, tables

PARTS = ("vectors", "demo")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vlm_benchmarks.quality", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="demo", help="the demo model, or a folder of its kind")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "kv-quality.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if "vectors" in given.parts:
        results["distortion"] = distortion_rows()
        results["inner products"] = inner_product_rows()
        results["attention"] = attention_rows()
    if "demo" in given.parts:
        from . import demo  # needs vlm-train, which vectors do not

        tasks, answers = demo.ask(checkpoint=given.model)
        results["demo"] = demo.demo_rows(tasks, answers)
        results["weights"] = demo.digest(given.model)
    path.write_text(json.dumps(results, indent=1) + "\n")
    if "distortion" in results:
        (given.folder / "kv-quality.md").write_text(tables(results))
        plot(results, given.folder / "kv-quality.png")


if __name__ == "__main__":
    main()
