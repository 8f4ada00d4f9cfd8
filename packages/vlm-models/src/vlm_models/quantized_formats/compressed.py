"""compressed-tensors (llm-compressor): integers and FP8 with scales per group, channel, block or matrix.

pack-quantized: weight_packed int32 [out, in * bits / 32] of codes that are offset to be positive, weight_scale [out,
groups], for asymmetric layers weight_zero_point int32 [out * bits / 32, groups], offset and packed along the outputs;
weight_g_idx where inputs were reordered. int-quantized: weight int8 with weight_scale. float-quantized, naive-
quantized: weight e4m3 with weight_scale. mxfp4-pack-quantized and nvfp4-pack-quantized: weight_packed uint8 [out, in
/ 2], weight_scale e8m0 or e4m3, and for nvfp4 weight_global_scale, which divides. Quantization of activations belongs
to arithmetic that is not done here: layers act on full activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ..core.config import expect
from ..core.weights import Tensors
from ..errors import ConfigError
from .fp8 import ACTIVATIONS, dequantized
from .layers import Found, codes_of, part, put_affine, split_parts, words_of
from .modelopt import MXFP4, bytes_to_words, put_nvfp4

_LEFT_OUT = (*ACTIVATIONS, "input_zero_point", "input_global_scale", "weight_shape")
_FP8 = ("float-quantized", "naive-quantized")


def read(tensors: Tensors, given: Mapping[str, Any], dtype: mx.Dtype) -> Found:
    """Raises ConfigError for a form that is not among these, WeightError for missing parts."""
    formats = ("pack-quantized", "int-quantized", *_FP8, "mxfp4-pack-quantized", "nvfp4-pack-quantized")
    form = expect(given, "format", *formats)
    schemes = [group.get("weights") or {} for group in (given.get("config_groups") or {}).values()]
    sparsity = (given.get("sparsity_config") or {}).get("format") or "dense"
    if len(schemes) != 1 or sparsity != "dense":
        raise ConfigError(
            f"compressed-tensors: expected one group of layers and dense weights, config.json has {len(schemes)} and "
            f"{sparsity!r}; convert it from the original weights"
        )
    tensors = {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in _LEFT_OUT}
    if form in _FP8:
        expect(schemes[0], "type", "float")
        block = schemes[0].get("block_structure")
        return Found(dequantized(tensors, dtype, tuple(block) if block else None))
    if form == "int-quantized":
        return _integers(tensors, schemes[0])
    if form == "pack-quantized":
        return _packed(tensors, schemes[0], dtype)
    rest, layers = split_parts(tensors, "weight_packed", ("weight_packed", "weight_scale", "weight_global_scale"))
    found = Found(rest)
    for path, parts in layers.items():
        words, scales = bytes_to_words(part(path, parts, "weight_packed")), part(path, parts, "weight_scale")
        if form.startswith("mxfp4"):
            found.put(path, words, scales, None, MXFP4)
        else:
            put_nvfp4(
                found, path, words, scales, 1 / part(path, parts, "weight_global_scale").astype(mx.float32), dtype
            )
    return found


def _integers(tensors: Tensors, scheme: Mapping[str, Any]) -> Found:
    """8-bit integers: MLX's affine layers, exactly, where the sizes divide."""
    expect(scheme, "num_bits", 8)
    expect(scheme, "symmetric", True)
    rest, layers = split_parts(tensors, "weight_scale", ("weight", "weight_scale", "weight_zero_point"))
    found = Found(rest)
    for path, parts in layers.items():
        weight, scales = part(path, parts, "weight"), part(path, parts, "weight_scale").reshape(-1, 1)
        scales = mx.broadcast_to(scales, (weight.shape[0], 1))
        words = words_of(weight.astype(mx.int32) + 128, 8)
        put_affine(found, path, words, scales, mx.full(scales.shape, 128), 8, weight.shape[1])
    return found


def _packed(tensors: Tensors, scheme: Mapping[str, Any], dtype: mx.Dtype) -> Found:
    bits = expect(scheme, "num_bits", 4, 8)
    names = ("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx")
    rest, layers = split_parts(tensors, "weight_packed", names)
    found = Found(rest)
    for path, parts in layers.items():
        words, scales = part(path, parts, "weight_packed").view(mx.uint32), part(path, parts, "weight_scale")
        zeros = mx.full(scales.shape, 2 ** (bits - 1))
        if "weight_zero_point" in parts:
            given = parts["weight_zero_point"]
            # early files hold them as they are, signed
            zeros = given + 2 ** (bits - 1) if given.dtype == mx.int8 else codes_of(given.T, bits).T[: scales.shape[0]]
        columns = words.shape[1] * 32 // bits
        size = columns // scales.shape[1]
        order = np.array(parts["weight_g_idx"]) if "weight_g_idx" in parts else np.arange(columns) // size
        if (order < 0).all() or np.array_equal(order, np.arange(columns) // size):
            put_affine(found, path, words, scales, zeros.astype(mx.float32), bits, size)
            continue
        group = mx.array(order)
        wide = codes_of(words, bits).astype(mx.float32) - zeros.astype(mx.float32)[:, group]
        found.tensors[f"{path}.weight"] = (wide * scales.astype(mx.float32)[:, group]).astype(dtype)
    return found
