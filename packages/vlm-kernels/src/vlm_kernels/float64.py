"""The ops once more, in numpy and float64, written apart from the reference: what tests and benchmarks measure errors against."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np


def wide(x: mx.array | None) -> Any:
    """An MLX array as float64; None stays None."""
    return None if x is None else np.asarray(x.astype(mx.float32), dtype=np.float64)


def linear(x: mx.array, w: mx.array, bias: mx.array | None = None) -> Any:
    result = wide(x) @ wide(w).T
    return result if bias is None else result + wide(bias)


def matmul(a: mx.array, b: mx.array) -> Any:
    return wide(a) @ wide(b)


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> Any:
    value = wide(x)
    result = value / np.sqrt((value**2).mean(-1, keepdims=True) + eps)
    return result if weight is None else result * wide(weight)


def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> Any:
    value = wide(x)
    result = (value - value.mean(-1, keepdims=True)) / np.sqrt(value.var(-1, keepdims=True) + eps)
    if weight is not None:
        result = result * wide(weight)
    return result if bias is None else result + wide(bias)


def rope(x: mx.array, cos: mx.array, sin: mx.array, *, interleaved: bool = False) -> Any:
    value, half = wide(x), cos.shape[-1]
    turn = (wide(cos) + 1j * wide(sin))[:, None]
    result = value.copy()
    first = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    second = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    turned = (value[..., first] + 1j * value[..., second]) * turn
    result[..., first], result[..., second] = turned.real, turned.imag
    return result


def swiglu(gate: mx.array, up: mx.array) -> Any:
    return wide(gate) / (1 + np.exp(-wide(gate))) * wide(up)


def geglu(gate: mx.array, up: mx.array, approximate: str = "tanh") -> Any:
    value = wide(gate)
    if approximate == "tanh":
        inner = np.tanh(np.sqrt(2 / np.pi) * (value + 0.044715 * value**3))
    else:
        inner = np.vectorize(math.erf, otypes=[float])(value / np.sqrt(2))
    return 0.5 * value * (1 + inner) * wide(up)


def attention(q: Any, k: Any, v: Any, *, scale: float, mask: Any = None, sinks: Any = None, softcap: Any = None) -> Any:
    query, key, value = wide(q), wide(k), wide(v)
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
    scores = scale * np.einsum("bhld,bhsd->bhls", query, key)
    length, keys = scores.shape[2:]
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if isinstance(mask, str):
        scores = np.where(np.tri(length, keys, keys - length, dtype=bool), scores, -np.inf)
    elif mask is not None and mask.dtype == mx.bool_:
        scores = np.where(np.array(mask), scores, -np.inf)
    elif mask is not None:
        scores = scores + wide(mask)
    top = scores.max(-1, keepdims=True)
    if sinks is not None:
        sink = wide(sinks)[None, :, None, None]
        top = np.maximum(top, sink)
    top = np.where(np.isneginf(top), 0, top)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True) + (0 if sinks is None else np.exp(sink - top))
    return np.einsum("bhls,bhsd->bhld", weights, value) / np.where(total == 0, 1, total)


def block_attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, segments: Any) -> Any:
    owner = np.repeat(np.arange(len(segments)), segments)
    return attention(q, k, v, scale=scale, mask=mx.array(owner[:, None] == owner[None, :]))


def unpack(w: mx.array, bits: int) -> Any:
    """Unsigned integers of a packed matrix: little-endian bit string of each row."""
    flat = np.array(w).view(np.uint8)
    strings = np.unpackbits(flat, axis=-1, bitorder="little")
    values = strings.reshape(*strings.shape[:-1], -1, bits).astype(np.int64)
    return (values << np.arange(bits)).sum(-1)


def _small_float(codes: Any, exponent_bits: int, mantissa_bits: int, bias: int) -> Any:
    sign = np.where(codes >> (exponent_bits + mantissa_bits), -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    return sign * magnitude


def dequantize(w: mx.array, scales: mx.array, biases: Any, group_size: int, bits: int, mode: str) -> Any:
    codes = unpack(w, bits)
    if mode == "affine":
        return codes * wide(scales).repeat(group_size, -1) + wide(biases).repeat(group_size, -1)
    raw = np.array(scales).astype(np.int64)
    scale = _small_float(raw, 4, 3, 7) if mode == "nvfp4" else 2.0 ** (raw - 127)
    values = _small_float(codes, 4, 3, 7) if mode == "mxfp8" else _small_float(codes, 2, 1, 1)
    return values * scale.repeat(group_size, -1)


def quantized_matmul(
    x: Any,
    w: Any,
    scales: Any,
    biases: Any = None,
    transpose: bool = True,
    group_size: int = 64,
    bits: int = 4,
    mode: str = "affine",
) -> Any:
    dense = dequantize(w, scales, biases, group_size, bits, mode)
    return wide(x) @ (dense.swapaxes(-1, -2) if transpose else dense)


def gather_quantized_matmul(
    x: Any, w: Any, scales: Any, biases: Any = None, lhs_indices: Any = None, rhs_indices: Any = None,
    transpose: bool = True, group_size: int = 64, bits: int = 4, mode: str = "affine", *, sorted_indices: bool = False,
) -> Any:  # fmt: skip
    dense = dequantize(w, scales, biases, group_size, bits, mode)
    if transpose:
        dense = dense.swapaxes(-1, -2)
    rows = wide(x).reshape(-1, *x.shape[-2:])
    lead = x.shape[:-2]
    lhs = np.arange(rows.shape[0]).reshape(lead) if lhs_indices is None else np.array(lhs_indices)
    rhs = np.arange(dense.shape[0]) if rhs_indices is None else np.array(rhs_indices)
    lhs, rhs = np.broadcast_arrays(lhs, rhs)
    return rows[lhs] @ dense[rhs]


def quantized_qqmm(
    x: Any, w: Any, scales: Any, bias: Any = None, group_size: int = 16, bits: int = 4, mode: str = "nvfp4"
) -> Any:
    rounded = x
    if x.size:
        packed, x_scales = mx.quantize(x.reshape(-1, x.shape[-1]), group_size=group_size, bits=bits, mode=mode)[:2]
        rounded = dequantize(packed, x_scales, None, group_size, bits, mode).reshape(x.shape)
    else:
        rounded = wide(x)
    result = rounded @ dequantize(w, scales, None, group_size, bits, mode).T
    return result if bias is None else result + wide(bias)


def _rounded(value: Any, dtype: mx.Dtype) -> Any:
    return wide(mx.array(value.astype(np.float32)).astype(dtype))


def project(
    x: mx.array, layers: Any, *, norm_weight: Any = None, eps: float = 0.0, gate: str = "", residual: Any = None
) -> tuple[Any, ...]:
    """Rounded to the dtype of x between the steps, as the definition is."""
    value = wide(x) if norm_weight is None else _rounded(rms_norm(x, norm_weight, eps), x.dtype)
    results = []
    for layer in layers:
        dense = wide(layer.weight)
        if layer.scales is not None:
            dense = dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, layer.mode)
        results.append(value @ dense.T + (0 if layer.bias is None else wide(layer.bias)))
    if gate:
        first, second = (mx.array(_rounded(r, x.dtype).astype(np.float32)) for r in results)
        name, _, kind = gate.partition("_")
        return (swiglu(first, second) if name == "swiglu" else geglu(first, second, approximate=kind),)
    return tuple(results) if residual is None else (results[0] + wide(residual),)
