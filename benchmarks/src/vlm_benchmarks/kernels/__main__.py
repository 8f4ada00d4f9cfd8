"""Run the kernel benchmark and write JSON: each measure with its ratio to the machine's roof and to stock MLX."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

import vlm_kernels as kernels
from vlm_benchmarks.machine import machine

from . import acceptance, decoder, model, peers, process
from .errors import errors
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


def _decoder(llama: str | None) -> list[dict[str, Any]]:
    if llama is not None:
        return peers.beside_llama(llama)
    return [dataclasses.asdict(decoder.measure(prompt, 16, 3)) for prompt in peers.PROMPTS]


def _errors() -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(one), "holds": one.holds} for one in errors()]


def main() -> int:
    """Command line. Prints the rows of the acceptance table; exit status 1 if one of them is missed."""
    parser = argparse.ArgumentParser(prog="python -m vlm_benchmarks.kernels", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measure")
    parser.add_argument("--stock", action="store_true", help="time stock MLX too: slow")
    parser.add_argument("--decoder", action="store_true", help="prefill and decode of a 0.57 G decoder too")
    parser.add_argument(
        "--llama", metavar="PYTHON", help="a Python with llama-cpp-python and gguf, to run beside the decoder"
    )
    parser.add_argument("--model", action="store_true", help="Qwen2-VL-2B with a picture too")
    parser.add_argument("--memory", action="store_true", help="peak memory of loading and generating too: writes 2 GB")
    parser.add_argument("--demo", action="store_true", help="the embedded model's command too")
    parser.add_argument("--errors", action="store_true", help="errors of every op, dtype and mode too")
    parser.add_argument("--all", action="store_true", help="everything but --llama, which needs its Python")
    parser.add_argument("--output", help="write the figures here as JSON")
    options = parser.parse_args()
    whole = options.all
    result: dict[str, Any] = {
        "machine": machine(),
        "native": dataclasses.asdict(kernels.backends().native),
        "measures": [run_measure(make(), options.seconds, options.stock or whole) for make in all_measures()],
        "decoder": _decoder(options.llama) if options.decoder or whole else [],
        "model": model.measure(with_stock=options.stock or whole) if options.model or whole else None,
        "demo": process.demo() if options.demo or whole else None,
        "memory": process.memory() if options.memory or whole else None,
        "errors": _errors() if options.errors or whole else [],
    }
    for one in result["errors"]:
        stock = "none" if one["stock"] is None else f"{one['stock']:.1e}"
        print(f"{one['op']:26s} {one['dtype']:9s} {one['mode']:32s} ours {one['ours']:.1e}  stock {stock}")
    table = acceptance.rows(result)
    for row in table:
        print(row)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=2) + "\n")
    return 0 if all(row.holds for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
