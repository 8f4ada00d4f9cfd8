"""Judge our command on what `make.py` wrote: `python tests/oracle/judge/run.py OUT [FAMILY[/VARIANT] ...]` in our environment.

Runs `python -m vlm_models.testing.logits` (in this process) on both layouts of every variant and prints a line per case: relative
error overall and at the worst position, greedy tokens, ties. Exits 1 if any case fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vlm_models.testing import golden, logits


def judge(checkpoint: Path, given: Path, options: list[str]) -> tuple[bool, str]:
    """Whether a case passes, and what to print. options: more arguments of the command."""
    expected = dict(np.load(given.with_name(given.name.replace(".inputs.", ".expected."))))
    refuses = given.parent / "refuses.txt"
    steps = expected["tokens"].shape[-1] if "tokens" in expected else 0
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.npz"
        with contextlib.redirect_stderr(said):
            code = logits.main([str(checkpoint), str(given), str(out), "--greedy", str(steps), *options])
        if refuses.exists():
            wanted = refuses.read_text()
            return code == 2 and wanted in said.getvalue(), f"refused: {said.getvalue().strip()}"
        if code:
            return False, said.getvalue().strip()
        ours = dict(np.load(out))
    if ours["logits"].shape != expected["logits"].shape:
        return False, f"shapes differ: {ours['logits'].shape}, reference {expected['logits'].shape}"
    errors = golden.logit_errors(ours["logits"], expected["logits"], expected["valid"])
    wrong = ties = 0
    for row in range(len(expected.get("tokens", ()))):
        mine = ours["tokens"].reshape(expected["tokens"].shape)[row]
        bad, tied = golden.disagreements(mine, expected["tokens"][row], expected["margins"][row])
        wrong, ties = wrong + len(bad), ties + tied
    passed = errors.overall <= 1e-4 and errors.worst <= 1e-3 and not wrong
    tokens = "no tokens" if not steps else f"{wrong} rows differ" if wrong else "tokens equal"
    return passed, f"{errors.overall:.1e} {errors.worst:.1e} {tokens}{f', {ties} ties' if ties else ''}"


def folders(root: Path, wanted: list[str]) -> Iterator[Path]:
    """Variants in order of their names."""
    for folder in sorted(path.parent for path in root.glob("*/*/transformers")):
        family = folder.parent.name
        if not wanted or family in wanted or f"{family}/{folder.name}" in wanted:
            yield folder


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("wanted", nargs="*")
    parser.add_argument("--failures", action="store_true", help="print only what fails")
    parser.add_argument("--chunk", type=int, help="run prompts in chunks")
    arguments = parser.parse_intermixed_args()
    options = [] if arguments.chunk is None else ["--chunk", str(arguments.chunk)]
    count = failures = 0
    start = time.perf_counter()
    for folder in folders(arguments.root, arguments.wanted):
        for layout in ("transformers", "hub"):
            if not (folder / layout).exists():
                continue
            for given in sorted(folder.glob("*.inputs.npz")):
                passed, text = judge(folder / layout, given, options)
                count, failures = count + 1, failures + (not passed)
                if passed and arguments.failures:
                    continue
                name = f"{folder.parent.name}/{folder.name} {layout} {given.name.removesuffix('.inputs.npz')}"
                print(f"{'ok  ' if passed else 'FAIL'} {name}: {text}", flush=True)
    print(f"{count} cases, {failures} failures, {time.perf_counter() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
