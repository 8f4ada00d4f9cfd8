"""GPTQ (AutoGPTQ and GPTQModel): integers with a scale and a zero per group of inputs.

qweight int32 [in * bits / 32, out], codes along the inputs, lowest first; qzeros int32 [groups, out * bits / 32];
scales [groups, out]; g_idx int32 [in], the group of each input. weight = scale * (code - zero). In
`checkpoint_format: gptq` (and where none is given) zeros are stored less one, in `gptq_v2` as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ..core.config import expect
from ..core.weights import Tensors
from ..errors import ConfigError
from .layers import Found, codes_of, part, put_affine, split_parts

NAMES = ("qweight", "qzeros", "scales", "g_idx")


def read(tensors: Tensors, given: Mapping[str, Any], dtype: mx.Dtype) -> Found:
    """Raises ConfigError for a packing that is not this, WeightError for missing parts."""
    bits = expect(given, "bits", 4, 2, 3, 8)
    version = expect(given, "checkpoint_format", "gptq", "gptq_v2")
    if given.get("dynamic"):
        raise ConfigError("gptq: 'dynamic' (bits by layer) is not supported; convert it from the original weights")
    rest, layers = split_parts(tensors, "qweight", NAMES)
    found = Found(rest)
    for path, parts in layers.items():
        scales = part(path, parts, "scales").T
        words = part(path, parts, "qweight").T.view(mx.uint32)
        zeros = codes_of(part(path, parts, "qzeros"), bits).T[: scales.shape[0]].astype(mx.float32)
        if version == "gptq":
            zeros = zeros + 1
        columns = words.shape[1] * 32 // bits
        size = columns // scales.shape[1]
        order = np.array(parts["g_idx"]) if "g_idx" in parts else np.arange(columns) // size
        if np.array_equal(order, np.arange(columns) // size):
            put_affine(found, path, mx.contiguous(words), scales, zeros, bits, size)
            continue
        # inputs of one group lie anywhere: MLX has no such groups
        group = mx.array(order)
        wide = codes_of(words, bits).astype(mx.float32) - zeros[:, group]
        found.tensors[f"{path}.weight"] = (wide * scales.astype(mx.float32)[:, group]).astype(dtype)
    return found
