"""Products with quantized weights."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels.dispatch import Op
from vlm_kernels.errors import KernelError
from vlm_kernels.quantized_matmul import cpu, reference
from vlm_kernels.quantized_matmul.formats import check_weights
from vlm_kernels.quantized_matmul.qq_linear import QQ_MODES, QQLinear

__all__ = ["QQLinear", "gather_quantized_matmul", "quantized_matmul", "quantized_qqmm"]


def _mlx_qqmm(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    bias: mx.array | None = None,
    group_size: int = 16,
    bits: int = 4,
    mode: str = "nvfp4",
) -> mx.array:
    flat = x.reshape(-1, x.shape[-1])
    result = mx.qqmm(flat, w, scales, group_size=group_size, bits=bits, mode=mode).reshape(*x.shape[:-1], w.shape[0])
    return result if bias is None else result + bias.astype(result.dtype)


_quantized_matmul = Op(
    "quantized_matmul", reference.quantized_matmul, mlx=mx.quantized_matmul, native=cpu.quantized_matmul
)
_gather = Op(
    "gather_quantized_matmul", reference.gather_quantized_matmul, mlx=mx.gather_qmm, native=cpu.gather_quantized_matmul
)
_qqmm = Op("quantized_qqmm", reference.quantized_qqmm, mlx=_mlx_qqmm, native=cpu.quantized_qqmm, mlx_on=("cuda",))


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
    """`x @ w.T` (or `x @ w`) with w packed by `mx.quantize`; signature of `mx.quantized_matmul`.

    Args:
        x: [..., M, K] or [K].
        w: packed [N, K * bits / 32] of uint32 (or [K, N * bits / 32] without transpose); leading axes broadcast.
        scales: [N, K / group_size].
        biases: as scales, for mode affine alone.
        transpose: multiply by the transposed weights.
        group_size: 32, 64 or 128; 32 for mxfp4 and mxfp8; 16 for nvfp4.
        bits: 1, 2, 3, 4, 5, 6 or 8.
        mode: `affine`, `mxfp4`, `mxfp8` or `nvfp4`.

    Raises:
        KernelError: a format MLX does not have, or shapes that do not fit.
    """
    rows, columns = check_weights("quantized_matmul", w, scales, biases, group_size, bits, mode)
    inner = columns if transpose else rows
    if x.ndim == 0 or x.shape[-1] != inner:
        raise KernelError(f"quantized_matmul: expected x [..., {inner}] for weights {w.shape}; got {x.shape}")
    return _quantized_matmul(x, w, scales, biases, transpose=transpose, group_size=group_size, bits=bits, mode=mode)


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
    """Products of picked rows with picked experts; signature of `mx.gather_qmm`.

    Args:
        x: [..., M, K].
        w: packed experts [E, N, K * bits / 32] of uint32.
        scales: [E, N, K / group_size].
        biases: as scales, for mode affine alone.
        lhs_indices: flat indices into the leading axes of x; None for all in order.
        rhs_indices: flat indices into the experts; broadcasts with lhs_indices.
        transpose: multiply by the transposed weights.
        group_size: as in `quantized_matmul`.
        bits: as in `quantized_matmul`.
        mode: as in `quantized_matmul`.
        sorted_indices: a promise that the indices ascend.

    Raises:
        KernelError: a format MLX does not have, or shapes that do not fit.
    """
    rows, columns = check_weights("gather_quantized_matmul", w, scales, biases, group_size, bits, mode)
    inner = columns if transpose else rows
    if x.ndim < 2 or x.shape[-1] != inner:
        raise KernelError(f"gather_quantized_matmul: expected x [..., M, {inner}] for weights {w.shape}; got {x.shape}")
    return _gather(
        x,
        w,
        scales,
        biases,
        lhs_indices,
        rhs_indices,
        transpose=transpose,
        group_size=group_size,
        bits=bits,
        mode=mode,
        sorted_indices=sorted_indices,
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
    """`q(x) @ w.T + bias` where q rounds x to the format of the weights; the product is in float32.

    Args:
        x: [..., K].
        w: packed [N, K * bits / 32] of uint32.
        scales: [N, K / group_size], uint8.
        bias: [N] or None.
        group_size: 16 for nvfp4, 32 for mxfp8.
        bits: 4 for nvfp4, 8 for mxfp8.
        mode: `nvfp4` or `mxfp8`.

    Raises:
        KernelError: another mode, or shapes that do not fit.
    """
    if mode not in QQ_MODES:
        raise KernelError(f"quantized_qqmm: expected mode {' or '.join(QQ_MODES)}; got {mode!r}")
    rows, columns = check_weights("quantized_qqmm", w, scales, None, group_size, bits, mode)
    if w.ndim != 2 or x.ndim == 0 or x.shape[-1] != columns or (bias is not None and bias.shape != (rows,)):
        raise KernelError(
            f"quantized_qqmm: expected x [..., {columns}], bias [{rows}]; got {x.shape}, "
            f"{None if bias is None else bias.shape}"
        )
    return _qqmm(x, w, scales, bias, group_size=group_size, bits=bits, mode=mode)
