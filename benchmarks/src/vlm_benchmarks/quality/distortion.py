"""Squared error of restored vectors, and the bias of their inner products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlm_kernels.turboquant import codebook

from .methods import Method, methods, turboquant_method
from .vectors import KINDS, vectors


def distortion(method: Method, x: np.ndarray) -> float:
    """Mean over vectors of |x - x^|^2 / |x|^2."""
    error = np.sum((x - method.restore(x)) ** 2, axis=1)
    return float(np.mean(error / np.sum(x**2, axis=1)))


def distortion_rows(
    head_sizes: Sequence[int] = (64, 80, 96, 128, 256),
    bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8),
    kinds: Sequence[str] = KINDS,
    count: int = 2000,
) -> list[dict[str, Any]]:
    """One row for each head size, kind of vector and method."""
    return [
        {
            "head_size": head_size,
            "vectors": kind,
            "method": method.name,
            "bits": method.bits,
            "true_bits": method.true_bits,
            "distortion": distortion(method, x),
            "gaussian": codebook(method.bits).distortion,
        }
        for head_size in head_sizes
        for kind in kinds
        for x in (vectors(kind, head_size, count),)
        for method in methods(head_size, bits)
    ]


def inner_product_rows(
    head_sizes: Sequence[int] = (64, 128, 256), bits: Sequence[int] = (1, 2, 3, 4), count: int = 20_000
) -> list[dict[str, Any]]:
    """Slope of <y, x^> against <y, x> over pairs of correlated vectors. A centroid codebook shrinks it by its distortion."""
    rows = []
    for head_size in head_sizes:
        x = vectors("random", head_size, count, seed=1)
        y = 0.5 * x + vectors("random", head_size, count, seed=2)
        exact = np.sum(x * y, axis=1)
        for b in bits:
            got = np.sum(turboquant_method(b, head_size).restore(x) * y, axis=1)
            slope = float(np.sum(got * exact) / np.sum(exact * exact))
            rows.append(
                {
                    "head_size": head_size,
                    "bits": b,
                    "slope": slope,
                    "expected": 1 - codebook(b).distortion,
                    "error": float(np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2))),
                }
            )
    return rows
