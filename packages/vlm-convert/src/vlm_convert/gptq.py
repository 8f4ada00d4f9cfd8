"""Rounding with error compensation (GPTQ, arXiv:2210.17323) into MLX's affine layout. Knows matrices; not models.

Columns are rounded one by one, those with the largest inputs first; what rounding a column adds to the output is taken back
by the columns not rounded yet. Scales and biases are found beforehand, per group, so that the result is an ordinary packed
matrix whatever the order.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from vlm_models import Quantization

from .errors import ConvertError

_DAMPING = 0.01  # of the mean diagonal, on the diagonal: keeps the inverse finite for inputs that hardly vary
_BLOCK = 128  # columns between two updates of the rest of the matrix
_SHRINKS = np.linspace(1.0, 0.7, 13)  # of a group's range, tried in turn


@dataclass(frozen=True)
class Rounded:
    """A packed matrix as mx.quantize gives it, and its relative output error on the inputs: plain rounding's, and its own."""

    weight: mx.array
    scales: mx.array
    biases: mx.array
    plain_error: float
    error: float


def round_matrix(weight: mx.array, moments: np.ndarray, how: Quantization) -> Rounded:
    """Pack a matrix so that its product with inputs of the given second moments changes least.

    Args:
        weight: [out, in].
        moments: sum of x x^T over the inputs, [in, in].
        how: affine.

    Raises:
        ConvertError: another mode, or a size that does not divide.
    """
    columns = weight.shape[1]
    if how.mode != "affine" or columns % how.group_size or moments.shape != (columns, columns):
        raise ConvertError(
            f"gptq: expected an affine mode and groups that divide {columns} columns, got {how.mode} of {how.group_size}"
        )
    dense = np.array(weight.astype(mx.float32))
    packed, scales, biases = mx.quantize(weight, how.group_size, how.bits)
    plain = _restored(packed, scales, biases, how)
    moments = moments.astype(np.float64)
    low, step = group_ranges(dense, np.diag(moments), how, weight.dtype)
    codes = _round_columns(dense, moments, low, step, how)
    made = mx.array(pack(codes, how.bits)), _typed(step, weight.dtype), _typed(low, weight.dtype)
    plain_error = output_error(dense, plain, moments)
    error = output_error(dense, _restored(*made, how), moments)
    if error > plain_error:  # too few or too equal inputs to do better
        made, error = (packed, scales, biases), plain_error
    return Rounded(*made, plain_error, error)


def _restored(weight: mx.array, scales: mx.array, biases: mx.array, how: Quantization) -> np.ndarray:
    wide = (scales.astype(mx.float32), biases.astype(mx.float32))
    return np.array(mx.dequantize(weight, *wide, group_size=how.group_size, bits=how.bits))


def _typed(values: np.ndarray, dtype: mx.Dtype) -> mx.array:
    return mx.array(values.astype(np.float32)).astype(dtype)


def output_error(weight: np.ndarray, other: np.ndarray, moments: np.ndarray) -> float:
    """Norm of the change of the output over that of the output."""
    difference = weight - other
    changed, whole = (float(np.sum((m @ moments) * m)) for m in (difference, weight))
    return float(np.sqrt(max(changed, 0.0) / whole)) if whole > 0 else 0.0


def group_ranges(
    weight: np.ndarray, importance: np.ndarray, how: Quantization, dtype: mx.Dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Bias and scale [out, groups] of every group, as they are stored: the part of the range that loses least.

    importance: of each column, [in]."""
    columns = weight.shape[1]
    groups = weight.reshape(weight.shape[0], columns // how.group_size, how.group_size)
    weights = np.maximum(importance, 1e-12).reshape(1, -1, how.group_size)
    top = 2**how.bits - 1
    smallest, largest = groups.min(-1), groups.max(-1)
    best_low, best_step = np.zeros_like(smallest), np.ones_like(smallest)
    best = np.full(smallest.shape, np.inf)
    for shrink in _SHRINKS:
        middle, half = (smallest + largest) / 2, (largest - smallest) / 2 * shrink
        low = _stored(middle - half, dtype)
        step = _stored(np.maximum(2 * half / top, 1e-7), dtype)
        codes = np.clip(np.rint((groups - low[..., None]) / step[..., None]), 0, top)
        loss = np.sum((codes * step[..., None] + low[..., None] - groups) ** 2 * weights, axis=-1)
        better = loss < best
        best = np.where(better, loss, best)
        best_low, best_step = np.where(better, low, best_low), np.where(better, step, best_step)
    return best_low, best_step


def _stored(values: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """Values as they come back from a type of 16 bits."""
    return np.array(_typed(values, dtype).astype(mx.float32))


def _round_columns(
    weight: np.ndarray, moments: np.ndarray, low: np.ndarray, step: np.ndarray, how: Quantization
) -> np.ndarray:
    """Codes uint32 [out, in]."""
    columns = weight.shape[1]
    diagonal = np.diag(moments).copy()
    damped = moments + np.diag(_DAMPING * max(diagonal.mean(), 1e-12) + (diagonal == 0))
    order = np.argsort(-diagonal, kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    rest = weight[:, order].astype(np.float32)
    group = order // how.group_size
    low, step = low[:, group], step[:, group]
    top = 2**how.bits - 1
    codes = np.zeros(weight.shape, np.uint32)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.zeros((weight.shape[0], stop - start), np.float32)
        for column in range(start, stop):
            value = rest[:, column]
            code = np.clip(np.rint((value - low[:, column]) / step[:, column]), 0, top)
            codes[:, order[column]] = code
            error = (value - (code * step[:, column] + low[:, column])) / upper[column, column]
            rest[:, column:stop] -= error[:, None] * upper[column, column:stop]
            errors[:, column - start] = error
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [out, in] as MLX stores them: one stream of bits per row, lowest first, in uint32 [out, in * bits / 32]."""
    rows, columns = codes.shape
    spread = ((codes[..., None] >> np.arange(bits, dtype=np.uint32)) & 1).astype(np.uint8)
    words = np.packbits(spread.reshape(rows, columns * bits), axis=-1, bitorder="little")
    return np.ascontiguousarray(words).view("<u4").reshape(rows, columns * bits // 32)
