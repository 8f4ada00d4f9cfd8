"""Ways to store a vector in few bits, each as a function that stores and restores it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from vlm_kernels import turboquant


@dataclass(frozen=True)
class Method:
    """A quantizer. `true_bits` is what a coordinate of a vector of `head_size` takes, scales and norms included."""

    name: str
    bits: int
    true_bits: float
    restore: Callable[[np.ndarray], np.ndarray]


def turboquant_method(bits: int, head_size: int) -> Method:
    """TurboQuant; vectors: [N, D] float32."""

    def restore(vectors: np.ndarray) -> np.ndarray:
        packed = turboquant.encode(mx.array(vectors[None, None]), bits)
        return np.array(turboquant.decode(packed))[0, 0]

    return Method("turboquant", bits, 8 * turboquant.Spec(bits, head_size).num_bytes / head_size, restore)


def uniform_method(bits: int, head_size: int, group_size: int) -> Method:
    """`mx.quantize` in groups along a vector, with float16 scales and biases."""

    def restore(vectors: np.ndarray) -> np.ndarray:
        parts = mx.quantize(mx.array(vectors).astype(mx.float16), group_size=group_size, bits=bits)
        return np.array(mx.dequantize(*parts, group_size=group_size, bits=bits).astype(mx.float32))

    return Method(f"uniform g{group_size}", bits, bits + 32 / group_size, restore)


def methods(head_size: int, bits: tuple[int, ...]) -> list[Method]:
    """TurboQuant and the uniform quantizers whose groups divide the head size."""
    groups = [size for size in (32, 64, 128) if head_size % size == 0]
    uniform = [uniform_method(b, head_size, size) for size in groups for b in bits if b in (2, 3, 4, 5, 6, 8)]
    return [turboquant_method(b, head_size) for b in bits] + uniform
