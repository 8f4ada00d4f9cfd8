"""Run the kernel benchmark and write JSON: each measure with its ratio to the machine's roof and to stock MLX."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

import vlm_kernels as kernels
from vlm_benchmarks.machine import machine

from . import decoder
from .measures import Measure, all_measures
from .timing import best_of


def run_measure(measure: Measure, seconds: float, with_stock: bool) -> dict[str, object]:
    """One measure: its time, its roof taken in turn with it, and the ratios."""
    roofs: list[float] = []
    functions = {"ours": measure.ours, "roof": lambda: roofs.append(kernels.machine_roof(measure.roof))}
    measure.ours()
    best = best_of(functions, seconds)["ours"] / measure.copies
    ours_error, stock_error = measure.error()
    result: dict[str, object] = {
        "name": measure.name,
        "milliseconds": best * 1e3,
        "roof": measure.roof,
        "of_roof": measure.work / best / max(roofs),
        "roof_per_second": max(roofs),
        "error": ours_error,
        "stock_error": stock_error,
    }
    if with_stock:
        stock = best_of({"stock": measure.stock}, 0, least=1)["stock"] * measure.stock_scale
        result |= {"stock_milliseconds": stock * 1e3, "times_stock": stock / best}
    return result


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m vlm_benchmarks.kernels", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measure")
    parser.add_argument("--stock", action="store_true", help="time stock MLX too: slow")
    parser.add_argument("--decoder", action="store_true", help="prefill and decode of a 0.57 G decoder too")
    parser.add_argument("--output", help="write here instead of to standard output")
    options = parser.parse_args()
    native = kernels.backends().native
    results = [run_measure(make(), options.seconds, options.stock) for make in all_measures()]
    speeds = [dataclasses.asdict(decoder.measure(prompt, 16, 3)) for prompt in (256, 1024)] if options.decoder else []
    text = json.dumps(
        {
            "machine": machine(),
            "native": dataclasses.asdict(native),
            "measures": results,
            "decoder": speeds,
        },
        indent=2,
    )
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    else:
        sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
