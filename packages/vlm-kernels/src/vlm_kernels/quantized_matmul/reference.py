"""Products with quantized weights: dequantized and accumulated in float32, rounded once."""

from __future__ import annotations

import mlx.core as mx


def dequantize(
    w: mx.array, scales: mx.array, biases: mx.array | None, group_size: int, bits: int, mode: str
) -> mx.array:
    """The weights in float32, without the rounding that a 16-bit result would bring."""
    if mode == "affine":
        scales = scales.astype(mx.float32)
        biases = None if biases is None else biases.astype(mx.float32)
    return mx.dequantize(w, scales, biases, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32)


def result_dtype(x: mx.array, scales: mx.array, mode: str) -> mx.Dtype:
    return mx.result_type(x.dtype, scales.dtype) if mode == "affine" else x.dtype


def quantized_matmul(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array | None = None,
    transpose: bool = True,
    group_size: int = 64,
    bits: int = 4,
    mode: str = "affine",
) -> mx.array:
    dense = dequantize(w, scales, biases, group_size, bits, mode)
    if transpose:
        dense = dense.swapaxes(-1, -2)
    return (x.astype(mx.float32) @ dense).astype(result_dtype(x, scales, mode))


def gather_quantized_matmul(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array | None = None,
    lhs_indices: mx.array | None = None,
    rhs_indices: mx.array | None = None,
    transpose: bool = True,
    group_size: int = 64,
    bits: int = 4,
    mode: str = "affine",
    *,
    sorted_indices: bool = False,
) -> mx.array:
    dense = dequantize(w, scales, biases, group_size, bits, mode)
    if transpose:
        dense = dense.swapaxes(-1, -2)
    result = mx.gather_mm(x.astype(mx.float32), dense, lhs_indices, rhs_indices, sorted_indices=sorted_indices)
    return result.astype(result_dtype(x, scales, mode))


def round_activations(x: mx.array, group_size: int, bits: int, mode: str) -> mx.array:
    """x after quantization and back, in float32."""
    flat = x.reshape(-1, x.shape[-1])
    packed, scales, *_ = mx.quantize(flat, group_size=group_size, bits=bits, mode=mode)
    return dequantize(packed, scales, None, group_size, bits, mode).reshape(x.shape)


def quantized_qqmm(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    bias: mx.array | None = None,
    group_size: int = 16,
    bits: int = 4,
    mode: str = "nvfp4",
) -> mx.array:
    if x.size == 0:
        return mx.zeros((*x.shape[:-1], w.shape[0]), dtype=x.dtype)
    rounded = round_activations(mx.stop_gradient(x), group_size, bits, mode)
    # The gradient with respect to x is that of the product, as if rounding were the identity.
    wide = x.astype(mx.float32)
    rounded = wide + mx.stop_gradient(rounded - wide)
    result = rounded @ dequantize(w, scales, None, group_size, bits, mode).T
    if bias is not None:
        result = result + bias.astype(mx.float32)
    return result.astype(x.dtype)
