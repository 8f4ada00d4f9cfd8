"""Dense linear layers and matrix products."""

from __future__ import annotations

import mlx.core as mx

from vlm_kernels.dispatch import Op
from vlm_kernels.errors import KernelError
from vlm_kernels.linear import cpu, reference


def _mlx_linear(x: mx.array, w: mx.array, bias: mx.array | None = None) -> mx.array:
    return x @ w.T if bias is None else mx.addmm(bias, x, w.T)


_linear = Op("linear", reference.linear, mlx=_mlx_linear, native=cpu.linear)
_matmul = Op("matmul", reference.matmul, mlx=mx.matmul, native=cpu.matmul)


def linear(x: mx.array, w: mx.array, bias: mx.array | None = None) -> mx.array:
    """`x @ w.T + bias`, accumulated in float32; the result has the common dtype of the arguments.

    Args:
        x: [..., K].
        w: [N, K].
        bias: [N] or None.

    Raises:
        KernelError: the shapes do not fit.
    """
    if w.ndim != 2 or x.ndim == 0 or x.shape[-1] != w.shape[-1] or (bias is not None and bias.shape != w.shape[:1]):
        raise KernelError(
            f"linear: expected x [..., K], w [N, K], bias [N]; got {x.shape}, {w.shape}, "
            f"{None if bias is None else bias.shape}"
        )
    return _linear(x, w, bias)


def matmul(a: mx.array, b: mx.array) -> mx.array:
    """`a @ b` with broadcast leading axes, accumulated in float32; the result has the common dtype of the arguments.

    Args:
        a: [..., M, K] or [K].
        b: [..., K, N] or [K].
    """
    return _matmul(a, b)
