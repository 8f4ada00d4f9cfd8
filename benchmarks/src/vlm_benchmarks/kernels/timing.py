"""Time several things side by side, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def best_of(functions: Mapping[str, Callable[[], object]], seconds: float, least: int = 3) -> dict[str, float]:
    """The shortest time of each function, called in turn until `seconds` have passed and each ran `least` times."""
    best = dict.fromkeys(functions, float("inf"))
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best
