"""FP8 of Hugging Face checkpoints: e4m3 weights with a scale per block (128 x 128 mostly), channel or matrix.

weight F8_E4M3 [out, in]; weight_scale_inv (or weight_scale) float, one per block: what the weight is multiplied by.
Brought to full precision: MLX has no layers with such blocks. Scales of activations belong to arithmetic that is not
done here and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ..core.config import expect
from ..core.weights import Tensors
from ..errors import WeightError
from .layers import Found, from_fp8

SCALES = ("weight_scale_inv", "weight_scale")
ACTIVATIONS = ("input_scale", "activation_scale", "input_activation_scale", "k_scale", "v_scale", "output_scale")


def read(tensors: Tensors, given: Mapping[str, Any], dtype: mx.Dtype) -> Found:
    """Raises ConfigError for another number format, WeightError for weights without scales."""
    expect(given, "fmt", "e4m3", "float8_e4m3fn")
    block = given.get("weight_block_size")
    return Found(dequantized(tensors, dtype, None if block is None else (int(block[0]), int(block[1]))))


def dequantized(tensors: Tensors, dtype: mx.Dtype, block: tuple[int, int] | None = None) -> Tensors:
    """Every e4m3 weight times its scales. block: what one scale of a matrix of them covers; None: as they divide."""
    result: Tensors = {}
    for name, value in tensors.items():
        path, _, last = name.rpartition(".")
        if last in SCALES or last in ACTIVATIONS:
            continue
        if value.dtype != mx.uint8:
            result[name] = value
            continue
        scale = next((tensors[f"{path}.{key}"] for key in SCALES if f"{path}.{key}" in tensors), None)
        if last != "weight" or scale is None:
            raise WeightError(f"{name}: an 8-bit weight without a scale ({' or '.join(SCALES)})")
        if scale.size > 1 and block is not None:
            wanted = tuple(-(-size // side) for size, side in zip(value.shape, block, strict=True))
            if tuple(scale.shape) != wanted:
                raise WeightError(f"{path}: expected {wanted} scales of blocks, checkpoint has {tuple(scale.shape)}")
            rows = mx.repeat(mx.repeat(scale, block[0], axis=0), block[1], axis=1)
            scale = rows[: value.shape[0], : value.shape[1]]
        result[name] = from_fp8(value, scale, dtype)
    return result
