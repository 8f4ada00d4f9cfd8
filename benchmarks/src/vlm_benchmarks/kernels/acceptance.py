"""The measures that must be reached, as rows: what was measured, what is asked for, whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measure. A larger value is better unless `below`."""

    name: str
    value: float
    must: float
    aim: float | None = None
    unit: str = "x"
    below: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.must if self.below else self.value >= self.must

    def __str__(self) -> str:
        sign = "<=" if self.below else ">="
        aim = "" if self.aim is None else f", aim {self.aim:g}"
        state = "holds" if self.holds else "MISSED"
        return f"{self.name:64s} {self.value:9.3f} {self.unit:8s} must {sign} {self.must:g}{aim:12s} {state}"


def rows(result: Mapping[str, Any]) -> list[Row]:
    """The rows that `result`, the benchmark's JSON, has figures for."""
    found: list[Row] = []
    for one in result["measures"]:
        found += _measure(one)
    for one in result.get("decoder") or ():
        if "decode_ratio" in one:
            bits = f"{one['bits_per_weight']} against {one['llama_bits_per_weight']} bits a weight"
            found.append(Row(f"decode at {one['prompt']}, of llama.cpp's ({bits})", one["decode_ratio"], 1.0, 1.2))
            found.append(Row(f"prefill of {one['prompt']}, of llama.cpp's", one["prefill_ratio"], 1.0, 1.5))
    model = result.get("model") or {}
    for kind, name in (("first_token", "time to first token"), ("decode", "decode")):
        if f"{kind}_times_stock" in model:
            found.append(Row(f"Qwen2-VL-2B 4 bits, 448x448: {name}", model[f"{kind}_times_stock"], 50, unit="x stock"))
    if result.get("demo") is not None:
        found.append(Row("embedded model, vlm generate, whole process", result["demo"], 2.5, 1.5, "s", below=True))
    if result.get("memory"):
        name = "peak memory of load and generate, of 1.15 (weights + caches) + 150 MB"
        found.append(Row(name, result["memory"]["of_bound"], 1.0, unit="", below=True))
    if result.get("errors"):
        worse = sum(not one["holds"] for one in result["errors"])
        found.append(
            Row(f"errors above stock's, of {len(result['errors'])} op, dtype, mode", worse, 0, unit="", below=True)
        )
    return found


def _measure(one: Mapping[str, Any]) -> Sequence[Row]:
    name, stock = one["name"], one.get("times_stock")
    share = {"read": (0.75, 0.9), "float32": (0.7, 0.85), "bfloat16": (0.7, 0.85)}
    made = []
    if not name.startswith("attention"):
        must, aim = share[one["roof"]]
        made.append(Row(f"{name}, of {one['roof']} roof", one["of_roof"], must, aim, ""))
    if stock is not None and not name.startswith("linear") and " M=1 " not in name:
        made.append(Row(f"{name}, times stock", stock, 100, unit="x stock"))
    return made
