"""Products with quantized weights by the native library."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels import native
from vlm_kernels.quantized_matmul import reference


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
    if not native.serves(x):
        return reference.quantized_matmul(x, w, scales, biases, transpose, group_size, bits, mode)
    return native.call("quantized_matmul", x, w, scales, biases, transpose, group_size, bits, mode)


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
    # The native kernel sorts by expert itself: the promise saves nothing there.
    if not native.serves(x):
        return reference.gather_quantized_matmul(
            x,
            w,
            scales,
            biases,
            lhs_indices,
            rhs_indices,
            transpose,
            group_size,
            bits,
            mode,
            sorted_indices=sorted_indices,
        )
    return native.call(
        "gather_quantized_matmul", x, w, scales, biases, lhs_indices, rhs_indices, transpose, group_size, bits, mode
    )


def quantized_qqmm(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    bias: mx.array | None = None,
    group_size: int = 16,
    bits: int = 4,
    mode: str = "nvfp4",
) -> mx.array:
    if x.size == 0 or not native.serves(x):
        return reference.quantized_qqmm(x, w, scales, bias, group_size, bits, mode)
    # Rounded activations are exact in float32 and in bf16 only for mxfp8: float32 keeps the definition's numbers.
    wide = x.astype(mx.float32)
    rounded = reference.round_activations(mx.stop_gradient(x), group_size, bits, mode)
    rounded = wide + mx.stop_gradient(rounded - wide)
    result = native.call("quantized_matmul", rounded, w, scales, None, True, group_size, bits, mode)
    if bias is not None:
        result = result + bias.astype(mx.float32)
    return result.astype(x.dtype)
