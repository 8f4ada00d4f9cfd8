"""Converted checkpoints, ours in mlx-vlm and mlx-vlm's in ours: equal logits?

    python tests/oracle/peer/run.py WORK --ours PYTHON --oracle PYTHON --peer PYTHON

Three environments: the project's, the oracle's, and one with mlx-vlm and the same MLX. WORK is an empty folder. Exit status 1
where a pair that should agree does not. Where mlx-vlm computes otherwise than transformers from the original weights (Gemma 3 with
pictures), logits cannot agree; there each side must read a checkpoint exactly as it reads its twin from the other side.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# name: the one that must mean the same
CHECKPOINTS = {
    "original": "original",
    "ours-plain": "original",
    "ours-4bit": "theirs-4bit",
    "theirs-plain": "original",
    "theirs-4bit": "ours-4bit",
}
CASES = ("single", "multi", "text")
EQUAL = 1e-4  # relative error of float32 logits, as in parity


def error(value: np.ndarray, reference: np.ndarray) -> float:
    value, reference = value.astype(np.float64), reference.astype(np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def read(path: Path) -> np.ndarray | None:
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return arrays["logits"]


def judge(folder: Path, case: str) -> list[tuple[str, str, str]]:
    """(checkpoint, difference, verdict) of one family and case."""
    ours, theirs = (
        {name: read(folder / f"{name}.{case}.{side}.npz") for name in CHECKPOINTS} for side in ("ours", "theirs")
    )
    reference, peer = read(folder / f"reference.{case}.npz"), theirs["original"]
    assert reference is not None
    is_sound = peer is not None and error(peer, reference) < 1e-3
    rows = []
    for checkpoint, twin in CHECKPOINTS.items():
        mine, other = ours[checkpoint], theirs[checkpoint]
        if mine is None or other is None:
            said = (folder / f"{checkpoint}.{case}.failed.txt").read_text() if mine is not None else "ours: no logits"
            rows.append((checkpoint, said.replace("\n", " ")[:90], "FAILS"))
            continue
        apart = error(other, mine)
        if is_sound:
            rows.append((checkpoint, f"{apart:.1e}", "holds" if apart < EQUAL else "FAILS"))
            continue
        # its arithmetic is not transformers': each side alone must not tell the checkpoint from its twin
        mine_too, other_too = ours[twin], theirs[twin]
        assert mine_too is not None and other_too is not None
        same = error(mine, mine_too) < EQUAL and error(other, other_too) < EQUAL
        rows.append((checkpoint, f"{apart:.1e}", f"each side reads it as {twin}" if same else "FAILS"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    for name in ("ours", "oracle", "peer"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    work = given.work
    for command in (
        [given.oracle, HERE / "make.py", work / "goldens"],
        [given.ours, HERE / "ours.py", "prepare", work],
        [given.peer, HERE / "theirs.py", work],
        [given.ours, HERE / "ours.py", "logits", work],
    ):
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    failed = 0
    print("| family | case | checkpoint | relative difference of the logits | |\n|---|---|---|---|---|")
    for folder in sorted(path.parent for path in work.glob("*/original")):
        for case in CASES:
            for checkpoint, apart, verdict in judge(folder, case):
                failed += verdict == "FAILS"
                print(f"| {folder.name} | {case} | {checkpoint} | {apart} | {verdict} |")
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
