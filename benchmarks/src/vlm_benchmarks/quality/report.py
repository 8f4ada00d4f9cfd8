"""The rows as Markdown tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]
_NOTE = (
    "Distortion is the mean of |x - x^|^2 / |x|^2. True bits count scales and norms: TurboQuant adds 16 bits a vector, "
    "uniform quantization 32 a group."
)


def tables(results: Mapping[str, Rows], head_size: int = 128) -> str:
    """Markdown: distortion of each method, its ratio to the Gaussian codebook's, inner products, attention."""
    parts = ["# Accuracy of a quantized key-value cache", "", _NOTE, "", f"## Distortion, head size {head_size}", ""]
    parts += _table(_by_method([row for row in results["distortion"] if row["head_size"] == head_size]))
    parts += ["", "## TurboQuant: distortion over that of Lloyd-Max on a normal distribution", ""]
    parts += _table(_ratios(results["distortion"]))
    for title in ("inner products", "attention"):
        parts += ["", f"## {title.capitalize()}", "", *_table(results[title])]
    if "demo" in results:
        parts += ["", *_answers(results)]
    return "\n".join(parts) + "\n"


_DEMO_NOTE = (
    "Held-out questions to the embedded model (weights {weights}), every key and value quantized from the first token on; answers "
    "must be exact. Points are the difference to 16 bits over the same questions, with the 95 % interval of paired shares. "
    "`recall` asks for the text of a picture after 3, 7 or 13 turns about other things."
)


def _answers(results: Mapping[str, Any]) -> list[str]:
    """Answers of the demo model: all tasks and recall, then task by task."""
    rows = results["demo"]
    parts = ["## Answers of the demo model", "", _DEMO_NOTE.format(weights=results["weights"]), ""]
    for group in ("all tasks", "recall"):
        shown = [
            {
                "questions": group,
                "method": row["method"],
                "true bits": row["true_bits"],
                "asked": row["asked"],
                "right": f"{row['right_percent']:.2f} %",
                "points": f"{row['points']:+.2f}",
                "interval": f"{row['low']:+.2f} to {row['high']:+.2f}",
                "lost / won": f"{row['lost']} / {row['won']}",
            }
            for row in rows
            if row["questions"] == group
        ]
        if shown:
            parts += [*_table(shown), ""]
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["questions"] not in ("all tasks", "recall"):
            line = lines.setdefault(row["questions"], {"task": row["questions"], "asked": row["asked"]})
            line[row["method"]] = f"{row['right_percent']:.1f}"
    return [*parts, "Right answers in percent, by task:", "", *_table(list(lines.values()))]


def _by_method(rows: Rows) -> Rows:
    """One row a method and number of bits, one column a kind of vector."""
    table: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        head = {"method": row["method"], "bits": row["bits"], "true bits": row["true_bits"]}
        table.setdefault((row["method"], row["bits"]), head)[row["vectors"]] = row["distortion"]
    return sorted(table.values(), key=lambda row: row["true bits"])


def _ratios(rows: Rows) -> Rows:
    """One row a head size and kind of vector, one column a number of bits."""
    table: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        if row["method"] == "turboquant":
            head = {"head size": row["head_size"], "vectors": row["vectors"]}
            line = table.setdefault((row["head_size"], row["vectors"]), head)
            line[f"{row['bits']} bits"] = row["distortion"] / row["gaussian"]
    return list(table.values())


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
        for method, points in _points(rows, "distortion").items():
            axis.plot(*zip(*points), marker="o" if method == "turboquant" else ".", label=method)
        axis.set_title(f"distortion, vectors: {kind}")
    rows = [row for row in results["attention"] if row["keys"] == "4 fixed 10x channels"]
    for method, points in _points(rows, "error").items():
        axes[2].scatter(*zip(*points), label=method)
    for row in rows:
        axes[2].annotate(row["bits"], (row["true_bits"], row["error"]), textcoords="offset points", xytext=(5, 3))
    axes[2].set_title(f"attention error, heads {rows[0]['heads']}, key/value bits")
    for axis in axes:
        axis.set_yscale("log")
        axis.set_xlabel("true bits a coordinate")
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _points(rows: Rows, key: str) -> dict[str, list[tuple[float, float]]]:
    methods = dict.fromkeys(row["method"] for row in rows)
    return {name: sorted((row["true_bits"], row[key]) for row in rows if row["method"] == name) for name in methods}
