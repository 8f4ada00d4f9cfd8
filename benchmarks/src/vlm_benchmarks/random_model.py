"""A model of a given geometry with random weights, packed at once where it is to be quantized (no dense copy is made)."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from vlm_models import Family, Model, Quantization, family, named_parameters, pack_layers

from .geometry import GEOMETRIES


def build(
    name: str, *, bits: int | None = None, mode: str = "affine", group_size: int | None = None, dtype: str = "bfloat16"
) -> tuple[Model, Family, Any]:
    """Model, family and parsed configuration. bits None: not quantized. Raises KeyError for an unknown geometry."""
    hf = GEOMETRIES[name]
    kind = family(hf["model_type"])
    config = kind.config(hf)
    model = kind.model(config)
    if bits is not None:
        how = Quantization(bits, group_size or {"affine": 64, "nvfp4": 16}.get(mode, 32), mode)
        pack_layers(model, lambda path, _: None if any(fnmatch(path, p) for p in kind.keep_full) else how)
    fill(model, getattr(mx, dtype), bits or 4)
    return model, kind, config


def fill(model: nn.Module, dtype: mx.Dtype, bits: int = 4, seed: int = 0) -> None:
    """Random values for every parameter, of the size trained weights have."""
    key = mx.random.key(seed)
    filled = []
    for path, value in named_parameters(model):
        key, own = mx.random.split(key)
        filled.append((path, _values(path, value, dtype, bits, own)))
        mx.eval(filled[-1][1])
    model.update(tree_unflatten(filled))
    model.eval()


def _values(path: str, like: mx.array, dtype: mx.Dtype, bits: int, key: mx.array) -> mx.array:
    shape, name = like.shape, path.rpartition(".")[2]
    if like.dtype == mx.uint32:
        return mx.random.randint(-(2**31), 2**31 - 1, shape, dtype=mx.int32, key=key).view(mx.uint32)
    if like.dtype == mx.uint8:
        # block scales of the floating-point formats: exponents that make weights of about 0.02
        return mx.full(shape, 118, mx.uint8) if name == "scales" else mx.zeros(shape, mx.uint8)
    if name == "scales":
        return mx.full(shape, 0.08 / (2**bits - 1), dtype)
    if name == "biases":
        return mx.full(shape, -0.04, dtype)
    if like.ndim == 1:
        return mx.ones(shape, dtype) if "norm" in path and name == "weight" else mx.zeros(shape, dtype)
    return (mx.random.normal(shape, key=key) * 0.02).astype(dtype)
