"""Cases of the products with quantized weights."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from vlm_kernels.quantized_matmul.formats import AFFINE_BITS, AFFINE_GROUPS, FIXED
from vlm_kernels.testing import Case, random

FORMATS = tuple((group, bits, "affine") for bits in AFFINE_BITS for group in AFFINE_GROUPS) + tuple(
    (group, bits, mode) for mode, (group, bits) in FIXED.items()
)
_DTYPES = (mx.float32, mx.float16, mx.bfloat16)


def weights(
    shape: tuple[int, ...], dtype: mx.Dtype, group_size: int, bits: int, mode: str, seed: int = 1
) -> tuple[mx.array, mx.array, mx.array | None]:
    """Packed random weights, scales and biases (None but for affine)."""
    parts = mx.quantize(
        random(shape, dtype, seed=seed, scale=shape[-1] ** -0.5), group_size=group_size, bits=bits, mode=mode
    )
    return (parts[0], parts[1], parts[2] if mode == "affine" else None)


def _case(
    lead: tuple[int, ...], k: int, n: int, transpose: bool, dtype: mx.Dtype, format_: tuple[int, int, str]
) -> Case:
    group_size, bits, mode = format_

    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        packed = weights((n, k) if transpose else (k, n), dtype, *format_)
        options = {"transpose": transpose, "group_size": group_size, "bits": bits, "mode": mode}
        return (random((*lead, k), dtype), *packed), options

    return Case(f"quantized_matmul-{lead}-{k}-{n}-{'t' if transpose else 'n'}-{dtype}-{mode}{bits}g{group_size}", build)


QUANTIZED_MATMUL = (
    *(_case((m,), 256, 24, True, dtype, f) for f in FORMATS for dtype in _DTYPES for m in (1, 5)),
    *(_case((2, 3), 128, 128, False, dtype, f) for f in FORMATS for dtype in _DTYPES),
    *(
        _case(lead, k, n, True, dtype, (64, 4, "affine"))
        for lead, k, n in (((70,), 192, 33), ((0,), 64, 8), ((2, 1), 64, 1), ((130,), 320, 96))
        for dtype in _DTYPES
    ),
)


def _gather_case(
    tokens: int, picked: int, dtype: mx.Dtype, format_: tuple[int, int, str], transpose: bool = True
) -> Case:
    group_size, bits, mode = format_
    experts, k, n = 4, 128, 128

    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        packed = weights((experts, n, k), dtype, *format_)
        rhs = (mx.arange(tokens * picked) * 7 % experts).reshape(tokens, picked).astype(mx.uint32)
        options = {"transpose": transpose, "group_size": group_size, "bits": bits, "mode": mode, "rhs_indices": rhs}
        return (random((tokens, 1, 1, k), dtype), *packed), options

    return Case(f"gather_quantized_matmul-{tokens}-{picked}-{dtype}-{mode}{bits}g{group_size}-{transpose}", build)


GATHER_QUANTIZED_MATMUL = tuple(
    _gather_case(tokens, picked, dtype, f, transpose)
    for tokens, picked in ((1, 2), (9, 2))
    for dtype in _DTYPES
    for f in ((64, 4, "affine"), (32, 8, "affine"), (32, 4, "mxfp4"), (16, 4, "nvfp4"))
    for transpose in (True, False)
)


def _qq_case(lead: tuple[int, ...], k: int, n: int, dtype: mx.Dtype, mode: str, biased: bool) -> Case:
    group_size, bits = FIXED[mode]

    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        packed = weights((n, k), dtype, group_size, bits, mode)
        bias = random((n,), dtype, seed=4) if biased else None
        return (random((*lead, k), dtype), *packed[:2], bias), {"group_size": group_size, "bits": bits, "mode": mode}

    return Case(f"quantized_qqmm-{lead}-{k}-{n}-{dtype}-{mode}-{biased}", build)


QUANTIZED_QQMM = tuple(
    _qq_case(lead, 128, 40, dtype, mode, biased)
    for lead in ((1,), (2, 5), (0,))
    for dtype in _DTYPES
    for mode in ("mxfp8", "nvfp4")
    for biased in (True, False)
)
