"""Weights, images and sounds from an integer hash of (name, index): the same numbers on every machine and library.

Knows names, shapes and numpy. Does not know models, files or MLX; the oracle loads this file alone, by its path.
Every step up to the last is integer arithmetic and the last is one IEEE multiplication and addition, so results are
bit-equal wherever numpy runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_PIECE_MEAN = 4 * 65535 / 2
_PIECE_STD = (4 * (65536.0**2 - 1) / 12) ** 0.5


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of one tensor; `std` 0 gives a constant."""

    mean: float
    std: float


STANDARD = Spread(0.0, 1.0)


def bits(name: str, count: int) -> np.ndarray:
    """`count` hashed uint64 for `name`: splitmix64 over the element index, seeded by SHA-256 of the name."""
    seed = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    z = seed + _GOLDEN * (np.arange(count, dtype=np.uint64) + np.uint64(1))
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def normal(name: str, shape: Sequence[int], spread: Spread = Spread(0.0, 1.0)) -> np.ndarray:
    """Approximately normal float32 of `shape`: the sum of four 16-bit pieces of each hash, centred and scaled."""
    count = int(np.prod(shape, dtype=np.int64))
    z = bits(name, count)
    mask = np.uint64(0xFFFF)
    pieces: np.ndarray = np.stack([((z >> np.uint64(16 * i)) & mask).astype(np.int64) for i in range(4)]).sum(axis=0)
    unit = (pieces.astype(np.float64) - _PIECE_MEAN) / _PIECE_STD
    return (unit * spread.std + spread.mean).astype(np.float32).reshape(tuple(shape))


def spread_of(name: str, shape: Sequence[int]) -> Spread:
    """A healthy spread for a parameter, judged by name and shape alone.

    Vectors (norm weights, scales) lie about one, biases are small and not zero, embeddings have standard deviation 0.2,
    matrices and convolutions 1.2 / sqrt(fan in).
    """
    leaf = name.rsplit(".", 1)[-1]
    owner = name.rsplit(".", 2)[-2] if name.count(".") else ""
    if leaf.endswith("bias"):
        return Spread(0.0, 0.1)
    if len(shape) <= 1:
        return Spread(1.0, 0.2)
    if "embed" in owner and "patch" not in owner and len(shape) == 2:
        return Spread(0.0, 0.2)
    fan_in = shape[-1] if "experts" in name else int(np.prod(shape[1:]))
    return Spread(0.0, 1.2 / float(fan_in) ** 0.5)


def image(name: str, height: int, width: int) -> np.ndarray:
    """A smooth RGB picture with a little texture, uint8 [height, width, 3]; every pixel from integer arithmetic."""
    a, b, c, d = (int(v) for v in bits(f"{name}.waves", 4) % np.uint64(5))
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    y, x = y * 256 // max(height, 1), x * 256 // max(width, 1)
    texture = (bits(f"{name}.texture", height * width * 3) >> np.uint64(62)).astype(np.int64).reshape(height, width, 3)

    def triangle(values: np.ndarray) -> np.ndarray:
        return 255 - np.abs(values % 512 - 256).clip(0, 255)

    planes = (triangle((1 + a) * x + 40 * b), triangle((1 + b) * y + 60 * c), triangle((1 + c) * (x + y) + 30 * d))
    return (np.stack(planes, axis=-1) * 63 // 64 + texture).clip(0, 255).astype(np.uint8)


def sound(name: str, samples: int) -> np.ndarray:
    """Mono float32 in [-0.5, 0.5]: two triangle waves and hashed noise, for audio extractors. [samples]"""
    first, second = (int(v) for v in bits(f"{name}.pitch", 2) % np.uint64(40))
    index = np.arange(samples, dtype=np.int64)

    def wave(period: int) -> np.ndarray:
        return (np.abs(index % period * 2 - period) * 2 / period - 1.0) * 0.2

    noise = (bits(f"{name}.noise", samples) >> np.uint64(48)).astype(np.float64) / 65535 * 0.1 - 0.05
    return (wave(20 + first) + wave(90 + second) + noise).astype(np.float32)
