"""`python -m vlm_benchmarks.quality FOLDER`: measure and write JSON, Markdown and the plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from . import attention_rows, distortion_rows, inner_product_rows, plot, tables


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m vlm_benchmarks.quality FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "distortion": distortion_rows(),
        "inner products": inner_product_rows(),
        "attention": attention_rows(),
    }
    (folder / "kv-quality.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "kv-quality.md").write_text(tables(results))
    plot(results, folder / "kv-quality.png")


if __name__ == "__main__":
    main()
