"""Results as bars: one panel per measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .compare import MEASURES, name_of


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """results: label -> results of one file. Writes the format that the path's suffix names."""
    import matplotlib  # slow to import; only here

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({name_of(result) for group in results.values() for result in group})
    figure, axes = pyplot.subplots(len(MEASURES), 1, figsize=(8, 2 + 0.5 * len(names) * len(MEASURES)), squeeze=False)
    height = 0.8 / len(results)
    for axis, measure in zip(axes[:, 0], MEASURES, strict=True):
        for index, (label, group) in enumerate(results.items()):
            values = {name_of(result): result.get(measure) or 0 for result in group}
            places = [row + index * height for row in range(len(names))]
            axis.barh(places, [values.get(name, 0) for name in names], height=height, label=label)
        axis.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
        axis.set_title(measure.replace("_", " "))
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
