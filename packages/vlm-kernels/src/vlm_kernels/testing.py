"""Cases of an op, and the comparison every fast implementation must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

# Rounding once costs half a unit in the last place: 2^-9, 2^-12, 2^-25 relative to the largest value.
TOLERANCE = {mx.float32: 2e-5, mx.float16: 2e-3, mx.bfloat16: 1e-2}


@dataclass(frozen=True)
class Case:
    """One call of an op: `build` makes the arguments anew, the same each time."""

    name: str
    build: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    tags: frozenset[str] = field(default_factory=frozenset)


def random(shape: tuple[int, ...], dtype: mx.Dtype = mx.float32, *, seed: int = 0, scale: float = 1.0) -> mx.array:
    """Standard normal values times `scale`, the same for the same arguments on every platform."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * scale
    return mx.array(values).astype(dtype)


def relative_error(result: mx.array, expected: Any) -> float:
    """Largest difference over the largest magnitude expected; 0 for empty arrays."""
    want = np.asarray(expected.astype(mx.float32) if isinstance(expected, mx.array) else expected, dtype=np.float64)
    got = np.asarray(result.astype(mx.float32), dtype=np.float64)
    if want.shape != got.shape:
        raise AssertionError(f"shape: expected {want.shape}, got {got.shape}")
    if want.size == 0:
        return 0.0
    return float(np.max(np.abs(got - want)) / max(float(np.max(np.abs(want))), 1e-30))


def assert_matches_reference(
    op: Callable[..., mx.array],
    reference: Callable[..., mx.array],
    case: Case,
    tolerance: Mapping[mx.Dtype, float] = TOLERANCE,
) -> None:
    """Compare result, shape and dtype of `op` on a case with those of its definition."""
    args, kwargs = case.build()
    expected = reference(*args, **kwargs)
    result = op(*args, **kwargs)
    if result.dtype != expected.dtype:
        raise AssertionError(f"{case.name}: expected dtype {expected.dtype}, got {result.dtype}")
    error = relative_error(result, expected)
    if not error <= tolerance[expected.dtype]:
        raise AssertionError(f"{case.name}: relative error {error:.2e} exceeds {tolerance[expected.dtype]:.0e}")
