"""A model of a given geometry with random weights, packed at once where it is to be quantized (no dense copy is made)."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from vlm_models import Family, Model, Quantization, family, named_parameters, pack_layers, packed_layers

from .geometry import GEOMETRIES


def build(
    name: str,
    *,
    bits: int | None = None,
    mode: str = "affine",
    group_size: int | None = None,
    dtype: str = "bfloat16",
    layers: int | None = None,
) -> tuple[Model, Family, Any]:
    """Model, family and parsed configuration. bits None: not quantized. layers: of the text side, None for all.

    Raises KeyError for an unknown geometry."""
    hf = GEOMETRIES[name]
    if layers is not None:
        hf = {**hf, "num_hidden_layers": min(layers, hf["num_hidden_layers"])}
    kind = family(hf["model_type"])
    config = kind.config(hf)
    model = kind.model(config)
    if bits is not None:
        how = Quantization(bits, group_size or {"affine": 64, "nvfp4": 16}.get(mode, 32), mode)
        pack_layers(model, lambda path, _: None if any(fnmatch(path, p) for p in kind.keep_full) else how)
    fill(model, getattr(mx, dtype))
    return model, kind, config


def fill(model: nn.Module, dtype: mx.Dtype, seed: int = 0) -> None:
    """Random values for every parameter, of the size trained weights have; layer by layer."""
    packed = packed_layers(model)
    key = mx.random.key(seed)
    filled = []
    for path, value in named_parameters(model):
        layer, _, name = path.rpartition(".")
        if layer in packed and name in ("scales", "biases"):
            continue  # they come with the weight
        key, own = mx.random.split(key)
        if layer in packed and name == "weight":
            parts = _packed(value.shape, packed[layer], dtype, own)
            filled += [(f"{layer}.{part}", made) for part, made in parts.items()]
            mx.eval(parts)
        else:
            filled.append((path, _values(path, value, dtype, own)))
            mx.eval(filled[-1][1])
    model.update(tree_unflatten(filled))
    model.eval()


def _packed(shape: Sequence[int], how: Quantization, dtype: mx.Dtype, key: mx.array) -> dict[str, mx.array]:
    """A packed matrix. Affine: random codes under one scale; the floating-point formats are packed from random weights, since
    not all of their codes and scales are numbers."""
    if how.mode == "affine":
        codes = mx.random.randint(-(2**31), 2**31 - 1, shape, dtype=mx.int32, key=key).view(mx.uint32)
        groups = (*shape[:-1], shape[-1] * 32 // how.bits // how.group_size)
        scale = 0.08 / (2**how.bits - 1)
        return {"weight": codes, "scales": mx.full(groups, scale, dtype), "biases": mx.full(groups, -0.04, dtype)}
    dense = (mx.random.normal((*shape[:-1], shape[-1] * 32 // how.bits), key=key) * 0.02).astype(dtype)
    weight, scales, *_ = mx.quantize(dense, how.group_size, how.bits, how.mode)
    return {"weight": weight, "scales": scales}


def _values(path: str, like: mx.array, dtype: mx.Dtype, key: mx.array) -> mx.array:
    shape, name = like.shape, path.rpartition(".")[2]
    if like.ndim == 1:
        return mx.ones(shape, dtype) if "norm" in path and name == "weight" else mx.zeros(shape, dtype)
    return (mx.random.normal(shape, key=key) * 0.02).astype(dtype)
