"""Error of attention over a quantized cache, on a random geometry with many query heads per key head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .methods import Method, turboquant_method, uniform_method
from .vectors import vectors

# Key bits, value bits. 3.5 is (3, 4); the rows after it override the keys, which many queries share.
SPLITS = ((2, 2), (3, 3), (3, 4), (4, 4), (5, 4), (6, 4), (8, 4), (5, 5))


def attention_rows(
    num_heads: int = 28,
    num_kv_heads: int = 4,
    head_size: int = 128,
    num_keys: int = 2048,
    kinds: Sequence[str] = ("random", "4 fixed 10x channels"),
    splits: Sequence[tuple[int, int]] = SPLITS,
) -> list[dict[str, Any]]:
    """One row for each kind of key and each pair of methods; errors relative to attention on the exact vectors."""
    rows = []
    for kind in kinds:
        q, k, v = _geometry(kind, num_heads, num_kv_heads, head_size, num_keys)
        exact = _attention(q, k, v)
        for key_bits, value_bits in splits:
            pairs = [(turboquant_method(key_bits, head_size), turboquant_method(value_bits, head_size))]
            if {key_bits, value_bits} <= {2, 3, 4, 5, 6, 8}:
                # The largest group comes closest to the bits that TurboQuant takes.
                group = 128 if head_size % 128 == 0 else 64
                pairs.append((uniform_method(key_bits, head_size, group), uniform_method(value_bits, head_size, group)))
            for key_method, value_method in pairs:
                got = _attention(q, _restored(key_method, k), _restored(value_method, v))
                rows.append(
                    {
                        "heads": f"{num_heads}/{num_kv_heads}",
                        "keys": kind,
                        "method": key_method.name,
                        "bits": f"{key_bits}/{value_bits}",
                        "true_bits": (key_method.true_bits + value_method.true_bits) / 2,
                        "error": float(np.linalg.norm(got - exact) / np.linalg.norm(exact)),
                    }
                )
    return rows


def _geometry(
    kind: str, num_heads: int, num_kv_heads: int, head_size: int, num_keys: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries near one of the keys each, so that the softmax has a peak as it has in a trained model."""
    k = vectors(kind, head_size, num_kv_heads * num_keys, seed=1).reshape(num_kv_heads, num_keys, head_size)
    v = vectors("random", head_size, num_kv_heads * num_keys, seed=2).reshape(k.shape)
    generator = np.random.default_rng(3)
    group = num_heads // num_kv_heads
    near = k[:, generator.integers(0, num_keys, group)] / np.abs(k).std()
    noise = generator.standard_normal((num_kv_heads, group, head_size)).astype(np.float32)
    return (0.5 * near + noise).astype(np.float32), k / np.abs(k).std(), v


def _attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """q: [Hkv, G, D]; k, v: [Hkv, S, D]."""
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(1, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)) @ v.astype(np.float64)


def _restored(method: Method, x: np.ndarray) -> np.ndarray:
    restored = method.restore(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    mx.clear_cache()
    return restored
