"""NVIDIA ModelOpt exports: NVFP4, MXFP8 and FP8.

NVFP4: weight uint8 [out, in / 2] (e2m1, lower half byte first), weight_scale e4m3 [out, in / 16], weight_scale_2 one
float: the product of all three. MXFP8: weight e4m3 [out, in], weight_scale uint8 e8m0 [out, in / 32]: MLX's own. FP8:
weight_scale one float. Scales of activations and of key-value caches belong to arithmetic that is not done here and
are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ..core.config import expect
from ..core.weights import Tensors
from ..layers.linear import Quantization
from .fp8 import ACTIVATIONS, dequantized
from .layers import Found, part, split_parts

NVFP4, MXFP4, MXFP8 = Quantization(4, 16, "nvfp4"), Quantization(4, 32, "mxfp4"), Quantization(8, 32, "mxfp8")


def read(tensors: Tensors, given: Mapping[str, Any], dtype: mx.Dtype) -> Found:
    """Raises ConfigError for another algorithm, WeightError for missing parts."""
    algorithm = str(given.get("quant_algo")).upper()
    expect({"quant_algo": algorithm}, "quant_algo", "NVFP4", "MXFP8", "FP8")
    tensors = {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in ACTIVATIONS}
    if algorithm == "FP8":
        return Found(dequantized(tensors, dtype))
    rest, layers = split_parts(tensors, "weight_scale", ("weight", "weight_scale", "weight_scale_2"))
    found = Found(rest)
    for path, parts in layers.items():
        weight, scales = part(path, parts, "weight"), part(path, parts, "weight_scale")
        if algorithm == "MXFP8":
            found.put(path, bytes_to_words(weight), scales, None, MXFP8)
        else:
            factor = part(path, parts, "weight_scale_2").astype(mx.float32)
            put_nvfp4(found, path, bytes_to_words(weight), scales, factor, dtype)
    return found


def bytes_to_words(weight: mx.array) -> mx.array:
    """uint8 [out, n] as uint32 [out, n / 4], lowest byte first."""
    return mx.contiguous(weight).view(mx.uint32)


def put_nvfp4(found: Found, path: str, words: mx.array, scales: mx.array, factor: mx.array, dtype: mx.Dtype) -> None:
    """A layer with a factor of its own: MLX's nvfp4 where that is one, else in full precision, rounded once."""
    if mx.all(factor == 1).item():
        found.put(path, words, scales, None, NVFP4)
        return
    wide = mx.dequantize(words, scales, None, NVFP4.group_size, NVFP4.bits, NVFP4.mode, dtype=mx.float32)
    found.tensors[f"{path}.weight"] = (wide * factor).astype(dtype)
