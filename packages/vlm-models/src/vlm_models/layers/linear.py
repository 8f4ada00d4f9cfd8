"""Linear maps and token embeddings, dense and quantized. Knows arrays; not checkpoints.

Parameter names are those of checkpoints in MLX's and transformers' form: weight, bias; quantized: weight (packed uint32),
scales, biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from vlm_kernels import Projection, linear, project, quantized_matmul

from ..errors import ConfigError

MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


@dataclass(frozen=True)
class Quantization:
    """How a matrix is stored: bits per weight, weights per scale, and MLX's mode."""

    bits: int = 4
    group_size: int = 64
    mode: str = "affine"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"quantization mode {self.mode!r} is not supported (supported: {', '.join(MODES)})")


class Packed(nn.Module):
    """Base of layers whose weight is packed: weight uint32 [..., out, in * bits / 32], scales and (affine) biases per group."""

    how: Quantization

    def unpacked(self, dtype: mx.Dtype) -> mx.array:
        """The weight [..., out, in] in full precision."""
        how = self.how
        biases = self.biases if "biases" in self else None
        return mx.dequantize(
            self.weight, self.scales, biases, group_size=how.group_size, bits=how.bits, mode=how.mode
        ).astype(dtype)

    def dequantized(self, dtype: mx.Dtype) -> nn.Module:
        """The same layer in full precision."""
        raise NotImplementedError


class Linear(nn.Module):
    """y = x W^T + b. weight: [out, in]."""

    def __init__(self, in_size: int, out_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((out_size, in_size))
        if bias:
            self.bias = mx.zeros((out_size,))

    def __call__(self, x: mx.array) -> mx.array:
        return linear(x, self.weight, self.get("bias"))

    def quantized(self, how: Quantization) -> QuantizedLinear:
        """The same map with a packed weight. Raises ConfigError where the size does not divide."""
        out_size, in_size = self.weight.shape
        if in_size % how.group_size:
            raise ConfigError(f"a matrix of {in_size} columns cannot be quantized in groups of {how.group_size}")
        result = QuantizedLinear(in_size, out_size, how, bias="bias" in self)
        packed = mx.quantize(self.weight, how.group_size, how.bits, how.mode)
        result.weight, result.scales = packed[0], packed[1]
        if len(packed) > 2:
            result.biases = packed[2]
        if "bias" in self:
            result.bias = self.bias
        return result


class QuantizedLinear(Packed):
    """y = x W^T + b with W packed. weight: uint32 [out, in * bits / 32]."""

    def __init__(self, in_size: int, out_size: int, how: Quantization, *, bias: bool = True) -> None:
        super().__init__()
        self.how = how
        _packed_parameters(self, in_size, out_size, how)
        if bias:
            self.bias = mx.zeros((out_size,))
        self.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        how = self.how
        y = quantized_matmul(
            x,
            self.weight,
            self.scales,
            self.get("biases"),
            transpose=True,
            group_size=how.group_size,
            bits=how.bits,
            mode=how.mode,
        )
        return y + self.bias if "bias" in self else y

    def dequantized(self, dtype: mx.Dtype) -> Linear:
        weight = self.unpacked(dtype)
        result = Linear(weight.shape[1], weight.shape[0], bias="bias" in self)
        result.weight = weight
        if "bias" in self:
            result.bias = self.bias.astype(dtype)
        return result


# Up to so many rows the weights are what takes the time to read, and handing over op by op would show.
_FEW_ROWS = 8


def together(x: mx.array, layers: Sequence[nn.Module], gate: str = "") -> tuple[mx.array, ...] | None:
    """Several linear layers of the same few rows in one op, or None where they must be called one by one.

    gate: as in `vlm_kernels.project`, whose one result is the activation of the first layer times the second.
    """
    if x.size > _FEW_ROWS * x.shape[-1] or not all(type(layer) in (Linear, QuantizedLinear) for layer in layers):
        return None
    return project(x, [_projection(layer) for layer in layers], gate=gate)


def _projection(layer: nn.Module) -> Projection:
    if isinstance(layer, Linear):
        return Projection(layer.weight, bias=layer.get("bias"))
    how = layer.how
    return Projection(
        layer.weight, layer.scales, layer.get("biases"), layer.get("bias"), how.group_size, how.bits, how.mode
    )


class Embedding(nn.Module):
    """Table look-up, and its transpose as an output head. weight: [num, dim]."""

    def __init__(self, num: int, dim: int) -> None:
        super().__init__()
        self.weight = mx.zeros((num, dim))

    def __call__(self, ids: mx.array) -> mx.array:
        return self.weight[ids]

    def as_linear(self, x: mx.array) -> mx.array:
        return linear(x, self.weight, None)

    def quantized(self, how: Quantization) -> QuantizedEmbedding:
        num, dim = self.weight.shape
        if dim % how.group_size:
            raise ConfigError(f"a table of {dim} columns cannot be quantized in groups of {how.group_size}")
        result = QuantizedEmbedding(num, dim, how)
        packed = mx.quantize(self.weight, how.group_size, how.bits, how.mode)
        result.weight, result.scales = packed[0], packed[1]
        if len(packed) > 2:
            result.biases = packed[2]
        return result


class QuantizedEmbedding(Packed):
    """An embedding whose table is packed."""

    def __init__(self, num: int, dim: int, how: Quantization) -> None:
        super().__init__()
        self.how = how
        _packed_parameters(self, dim, num, how)
        self.freeze()

    def __call__(self, ids: mx.array) -> mx.array:
        how = self.how
        biases = self.biases[ids] if "biases" in self else None
        return mx.dequantize(
            self.weight[ids], self.scales[ids], biases, group_size=how.group_size, bits=how.bits, mode=how.mode
        )

    def dequantized(self, dtype: mx.Dtype) -> Embedding:
        weight = self.unpacked(dtype)
        result = Embedding(*weight.shape)
        result.weight = weight
        return result

    def as_linear(self, x: mx.array) -> mx.array:
        how = self.how
        return quantized_matmul(
            x,
            self.weight,
            self.scales,
            self.get("biases"),
            transpose=True,
            group_size=how.group_size,
            bits=how.bits,
            mode=how.mode,
        )


def _packed_parameters(module: nn.Module, in_size: int, out_size: int, how: Quantization) -> None:
    """Empty packed parameters of the shapes and types that mx.quantize gives."""
    module.weight = mx.zeros((out_size, in_size * how.bits // 32), mx.uint32)
    groups = in_size // how.group_size
    if how.mode == "affine":
        module.scales = mx.zeros((out_size, groups))
        module.biases = mx.zeros((out_size, groups))
    else:
        module.scales = mx.zeros((out_size, groups), mx.uint8)
