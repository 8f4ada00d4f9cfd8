"""The rows as Markdown tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]
_NOTE = "Distortion is |x - x^|^2 / |x|^2; true bits count scales and norms."


def tables(results: Mapping[str, Rows]) -> str:
    """Markdown: distortion by kind of vector, inner products, attention."""
    parts = ["# Accuracy of a quantized key-value cache", "", _NOTE]
    for title, rows in results.items():
        parts += ["", f"## {title}", "", *_table(rows)]
    return "\n".join(parts) + "\n"


def _table(rows: Rows) -> list[str]:
    columns = list(rows[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(results: Mapping[str, Rows], path: Path, head_size: int = 128) -> None:
    """Distortion against true bits for random vectors and for a few large channels; attention error beside them."""
    # matplotlib takes a second to import, and only the plot needs it.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    for axis, kind in zip(axes, ("random", "4 fixed 10x channels")):
        rows = [row for row in results["distortion"] if row["head_size"] == head_size and row["vectors"] == kind]
        _lines(axis, rows, "distortion")
        axis.set_title(f"distortion, {kind} vectors, head size {head_size}")
    rows = [row for row in results["attention"] if row["keys"] == "4 fixed 10x channels"]
    _lines(axes[2], rows, "error")
    axes[2].set_title(f"attention error, heads {rows[0]['heads']}, keys with 4 large channels")
    for axis in axes:
        axis.set_yscale("log")
        axis.set_xlabel("true bits a coordinate")
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _lines(axis: Any, rows: Rows, key: str) -> None:
    for method in dict.fromkeys(row["method"] for row in rows):
        points = sorted((row["true_bits"], row[key]) for row in rows if row["method"] == method)
        axis.plot(*zip(*points), marker="o" if method == "turboquant" else ".", label=method)
