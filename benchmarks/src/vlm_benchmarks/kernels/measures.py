"""The measures: what is computed, on which geometry, against which roof, and how stock MLX computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

import vlm_kernels as kernels

K, N = 2048, 8192


@dataclass(frozen=True)
class Measure:
    """One op on one geometry.

    Args:
        name: what is computed.
        ours: runs and evaluates it `copies` times.
        work: bytes or floating operations of one run, for the roof.
        roof: `read`, `float32`, `bfloat16`, or empty where no roof applies.
        stock: the same in stock MLX, once.
        error: relative error of ours and of stock against float64.
        copies: runs in one call of `ours`.
        stock_scale: stock time of the whole is that of `stock` times this.
    """

    name: str
    ours: Callable[[], object]
    work: float
    roof: str
    stock: Callable[[], object]
    error: Callable[[], tuple[float, float]]
    copies: int = 1
    stock_scale: float = 1.0


def _normal(shape: tuple[int, ...], dtype: mx.Dtype, seed: int, scale: float = 1.0) -> mx.array:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * scale
    return mx.array(values).astype(dtype)


def _wide(x: mx.array) -> np.ndarray:
    return np.asarray(x.astype(mx.float32), dtype=np.float64)


def _relative(result: mx.array, want: np.ndarray) -> float:
    return float(np.abs(_wide(result) - want).max() / np.abs(want).max())


def quantized(rows: int, copies: int) -> Measure:
    """4-bit weights in groups of 64; `copies` different matrices, so that one row streams them from memory."""
    x = _normal((rows, K), mx.bfloat16, 0)
    w, scales, biases = mx.quantize(_normal((N, K), mx.bfloat16, 1, K**-0.5), group_size=64, bits=4)
    # Copies of the bytes in memory of their own.
    packed = [(w + mx.array(0, mx.uint32), scales * 1, biases * 1) for _ in range(copies)]
    mx.eval(x, packed)
    few = (w[:256], scales[:256], biases[:256])

    def error() -> tuple[float, float]:
        wide = (few[1].astype(mx.float32), few[2].astype(mx.float32))
        want = _wide(x[:8]) @ _wide(mx.dequantize(few[0], *wide, group_size=64, bits=4)).T
        ours = kernels.quantized_matmul(x[:8], *few)
        stock = mx.quantized_matmul(x[:8], *few, transpose=True, group_size=64, bits=4)
        return _relative(ours, want), _relative(stock, want)

    return Measure(
        name=f"quantized_matmul 4 bits bfloat16 M={rows} K={K} N={N}",
        ours=lambda: mx.eval([kernels.quantized_matmul(x, *one) for one in packed]),
        work=K * N * (0.5 + 4 / 64) if rows == 1 else 2.0 * rows * K * N,
        roof="read" if rows == 1 else "bfloat16",
        # Stock time grows with the rows: it is measured on 2 and scaled.
        stock=lambda: mx.eval(mx.quantized_matmul(x[:2], w, scales, biases, group_size=64, bits=4)),
        error=error,
        copies=copies,
        stock_scale=rows / min(rows, 2),
    )


def dense(rows: int, dtype: mx.Dtype, roof: str) -> Measure:
    """A dense linear layer."""
    x, w = _normal((rows, K), dtype, 0), _normal((N, K), dtype, 1, K**-0.5)
    mx.eval(x, w)

    def error() -> tuple[float, float]:
        want = _wide(x[:8]) @ _wide(w[:256]).T
        return _relative(kernels.linear(x[:8], w[:256]), want), _relative(x[:8] @ w[:256].T, want)

    return Measure(
        name=f"linear {roof} M={rows} K={K} N={N}",
        ours=lambda: mx.eval(kernels.linear(x, w)),
        work=2.0 * rows * K * N,
        roof=roof,
        stock=lambda: mx.eval(x @ w.T),
        error=error,
    )


def attention(length: int) -> Measure:
    """Causal self-attention, 16 heads on 8 key heads of 128."""
    q = _normal((1, 16, length, 128), mx.bfloat16, 0)
    k, v = _normal((1, 8, length, 128), mx.bfloat16, 1), _normal((1, 8, length, 128), mx.bfloat16, 2)
    mx.eval(q, k, v)
    scale = 128**-0.5

    def error() -> tuple[float, float]:
        rows = slice(length - 16, length)
        scores = scale * np.einsum("bhld,bhsd->bhls", _wide(q[:, :, rows]), _wide(k).repeat(2, 1))
        seen = np.arange(length) <= np.arange(length - 16, length)[:, None]
        weights = np.exp(np.where(seen, scores, -np.inf))
        want = np.einsum("bhls,bhsd->bhld", weights / weights.sum(-1, keepdims=True), _wide(v).repeat(2, 1))
        ours = kernels.attention(q, k, v, scale=scale, mask="causal")[:, :, rows]
        stock = mx.fast.scaled_dot_product_attention(q[:, :, rows], k, v, scale=scale, mask="causal")
        return _relative(ours, want), _relative(stock, want)

    return Measure(
        name=f"attention causal bfloat16 16/8 heads x 128, {length} queries",
        ours=lambda: mx.eval(kernels.attention(q, k, v, scale=scale, mask="causal")),
        work=2.0 * 16 * length * length * 128,
        roof="bfloat16",
        stock=lambda: mx.eval(mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")),
        error=error,
    )


def all_measures() -> list[Callable[[], Measure]]:
    """Makers of every measure: one at a time keeps memory low."""
    return [
        lambda: quantized(1, 16),
        lambda: quantized(256, 1),
        lambda: dense(256, mx.float32, "float32"),
        lambda: dense(256, mx.bfloat16, "bfloat16"),
        lambda: attention(1024),
    ]
