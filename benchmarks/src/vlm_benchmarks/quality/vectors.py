"""Vectors to quantize: random, and of the shapes that break quantizers without a proper rotation."""

from __future__ import annotations

import numpy as np

KINDS = ("random", "one-hot", "two-hot", "constant", "one 20x channel", "4 fixed 10x channels")


def vectors(kind: str, head_size: int, count: int = 2000, seed: int = 0) -> np.ndarray:
    """float32 [N, head_size]; N is `count` where the kind does not fix it."""
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((count, head_size)).astype(np.float32)
    eye = np.eye(head_size, dtype=np.float32)
    if kind == "random":
        return normal
    if kind == "one-hot":
        return eye
    if kind == "two-hot":
        pairs = [(i, j) for i in range(0, head_size, 3) for j in range(i + 1, head_size, 7)]
        return np.stack([eye[i] + sign * eye[j] for i, j in pairs for sign in (1, -1)])
    if kind == "constant":
        return np.ones((1, head_size), np.float32)
    if kind == "one 20x channel":
        return normal[:head_size] * (1 + 19 * eye)[: len(normal)]
    if kind == "4 fixed 10x channels":
        scale = np.ones(head_size, np.float32)
        scale[generator.choice(head_size, 4, replace=False)] = 10
        return normal * scale
    raise ValueError(f"vectors: expected one of {', '.join(KINDS)}; got {kind!r}")
