"""Make goldens: `python tests/oracle/make_goldens.py FAMILY[/NAME] ...` in the oracle's environment."""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import environment

environment.prepare()
warnings.filterwarnings("ignore")

import transformers  # noqa: E402  (environment comes first)
from maker import make  # noqa: E402

transformers.utils.logging.disable_progress_bar()


def main(wanted: list[str]) -> None:
    """Make every configuration of the families named, or the one named FAMILY/NAME."""
    for word in wanted:
        family, _, name = word.partition("/")
        module = importlib.import_module(f"families.{family}")
        for spec in module.specs():
            if name and spec.name != name:
                continue
            start = time.perf_counter()
            folder = make(spec)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"{spec.family}/{spec.name}: {size / 1000:.0f} KB, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
