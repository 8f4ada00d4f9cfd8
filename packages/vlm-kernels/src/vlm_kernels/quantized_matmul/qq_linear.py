"""A linear layer whose weights and activations are both quantized."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels.errors import KernelError
from vlm_kernels.quantized_matmul.formats import check_weights

QQ_MODES = ("mxfp8", "nvfp4")


class QQLinear(nn.Module):
    """`x @ w.T + bias` with x quantized on the fly in the format of the weights.

    Parameters keep the names of a quantized linear layer: `weight`, `scales`, and `bias` if there is one.

    Args:
        weight: packed weights [N, K * bits / 32], uint32.
        scales: [N, K / group_size], uint8.
        bias: [N] or None.
        mode: `mxfp8` or `nvfp4`.
    """

    def __init__(
        self, weight: mx.array, scales: mx.array, bias: mx.array | None, *, group_size: int, bits: int, mode: str
    ) -> None:
        super().__init__()
        if mode not in QQ_MODES:
            raise KernelError(f"QQLinear: expected mode {' or '.join(QQ_MODES)}; got {mode!r}")
        check_weights("QQLinear", weight, scales, None, group_size, bits, mode)
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight = weight
        self.scales = scales
        if bias is not None:
            self.bias = bias
        self.freeze()

    @classmethod
    def from_quantized_linear(cls, layer: nn.QuantizedLinear) -> QQLinear:
        """Share the arrays of a quantized linear layer of mode mxfp8 or nvfp4.

        Raises:
            KernelError: another mode.
        """
        return cls(
            layer["weight"],
            layer["scales"],
            layer.get("bias"),
            group_size=layer.group_size,
            bits=layer.bits,
            mode=layer.mode,
        )

    def unfreeze(self, *, recurse: bool = True, keys: str | list[str] | None = None, strict: bool = False) -> nn.Module:
        """Unfreeze nothing: packed weights have no gradient."""
        return self

    def _extra_repr(self) -> str:
        rows, words = self.weight.shape
        return (
            f"input_dims={words * 32 // self.bits}, output_dims={rows}, bias={'bias' in self}, "
            f"group_size={self.group_size}, bits={self.bits}, mode={self.mode}"
        )

    def __call__(self, x: mx.array) -> mx.array:
        # The package root defines the op after it has imported this layer.
        from vlm_kernels.quantized_matmul import quantized_qqmm

        return quantized_qqmm(
            x,
            self["weight"],
            self["scales"],
            self.get("bias"),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )
