"""Two results side by side: which measures got worse by more than a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# measure: whether more is better
MEASURES = {
    "prompt_tps": True,
    "generation_tps": True,
    "time_to_first_token": False,
    "peak_memory_bytes": False,
}


@dataclass(frozen=True)
class Row:
    workload: str
    measure: str
    before: float
    after: float
    is_regression: bool

    @property
    def ratio(self) -> float:
        return self.after / self.before


def name_of(result: dict[str, Any]) -> str:
    """A workload in words; results with the same name can be compared."""
    work = result["workload"]
    bits = "16-bit" if work["bits"] is None else f"{work['bits']}-bit {work['mode']}"
    bits += " -qa" if work.get("quantize_activations") else ""
    bits += "" if work.get("layers") is None else f" {work['layers']} layers"
    picture = "text" if work["image"] is None else "{}x{}".format(*work["image"])
    return f"{work['geometry']} {bits} {picture} {work['prompt_tokens']}+{work['generate']}"


def compare(before: list[dict[str, Any]], after: list[dict[str, Any]], tolerance: float) -> list[Row]:
    """Rows for every workload in both lists. Raises ValueError where they have none in common."""
    old = {name_of(result): result for result in before}
    rows = []
    for result in after:
        name = name_of(result)
        if name not in old:
            continue
        for measure, more_is_better in MEASURES.items():
            first, second = old[name].get(measure), result.get(measure)
            if not first or not second:
                continue
            loss = first / second if more_is_better else second / first
            rows.append(Row(name, measure, first, second, loss > 1 + tolerance))
    if not rows:
        raise ValueError(f"no workload in common: {', '.join(sorted(old))} and {', '.join(map(name_of, after))}")
    return rows
