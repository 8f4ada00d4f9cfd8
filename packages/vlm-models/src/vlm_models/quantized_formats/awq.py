"""AWQ (AutoAWQ, version gemm): 4-bit integers with a scale and a zero per group of inputs.

qweight int32 [in, out / 8] and qzeros int32 [groups, out / 8] hold eight outputs a word, in the order 0 2 4 6 1 3 5 7
from the lowest bits; scales [groups, out]. weight = scale * (code - zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ..core.config import expect
from ..core.weights import Tensors
from .layers import Found, codes_of, part, put_affine, split_parts, words_of

NAMES = ("qweight", "qzeros", "scales")
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def read(tensors: Tensors, given: Mapping[str, Any], dtype: mx.Dtype) -> Found:
    """Raises ConfigError for another version or width, WeightError for missing parts."""
    bits = expect(given, "bits" if "bits" in given else "w_bit", 4)
    expect({"version": str(given.get("version", "gemm")).lower()}, "version", "gemm")
    rest, layers = split_parts(tensors, "qweight", NAMES)
    found = Found(rest)
    for path, parts in layers.items():
        scales = part(path, parts, "scales").T
        codes = codes_of(part(path, parts, "qweight"), bits, ORDER).T
        zeros = codes_of(part(path, parts, "qzeros"), bits, ORDER).T
        put_affine(found, path, words_of(codes, bits), scales, zeros, bits, codes.shape[1] // scales.shape[1])
    return found
