"""Cases of `project`: dense, packed and mixed layers, with and without norm, gate and residual."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from vlm_kernels.project.layer import Projection
from vlm_kernels.quantized_matmul.cases import weights
from vlm_kernels.testing import Case, random

_FORMATS = (
    (64, 4, "affine"),
    (32, 4, "affine"),
    (128, 8, "affine"),
    (32, 4, "mxfp4"),
    (16, 4, "nvfp4"),
    (32, 8, "mxfp8"),
)
_PACKED, _OTHER = _FORMATS[0], _FORMATS[2]


def _layer(n: int, k: int, dtype: mx.Dtype, kind: tuple[int, int, str] | None, biased: bool, seed: int) -> Projection:
    bias = random((n,), dtype, seed=seed + 7) if biased else None
    if kind is None:
        return Projection(random((n, k), dtype, seed=seed, scale=k**-0.5), bias=bias)
    return Projection(*weights((n, k), dtype, *kind, seed=seed), bias, *kind)


def _case(
    lead: tuple[int, ...],
    sizes: tuple[int, ...],
    kinds: tuple[tuple[int, int, str] | None, ...],
    dtype: mx.Dtype,
    *,
    normed: bool = False,
    gate: str = "",
    residual: bool = False,
    biased: bool = False,
) -> Case:
    k = 256

    def build() -> tuple[tuple[Any, ...], dict[str, Any]]:
        layers = [_layer(n, k, dtype, kind, biased, i + 1) for i, (n, kind) in enumerate(zip(sizes, kinds))]
        options: dict[str, Any] = {"gate": gate}
        if normed:
            options |= {"norm_weight": random((k,), dtype, seed=20), "eps": 1e-6}
        if residual:
            options["residual"] = random((*lead, sizes[0]), dtype, seed=21)
        return (random((*lead, k), dtype), layers), options

    names = "+".join("dense" if kind is None else f"{kind[2]}{kind[1]}g{kind[0]}" for kind in kinds)
    rest = f"{'norm-' if normed else ''}{gate}{'residual' if residual else ''}{'-bias' if biased else ''}"
    return Case(f"project-{lead}-{sizes}-{names}-{rest}-{dtype}", build)


_DTYPES = (mx.float32, mx.float16, mx.bfloat16)


def _qkv(dtype: mx.Dtype) -> list[Case]:
    kinds = (None, *_FORMATS)
    return [
        _case((1, 1), (96, 32, 33), (kind,) * 3, dtype, normed=True, biased=biased)
        for kind in kinds
        for biased in (True, False)
    ]


def _gated(dtype: mx.Dtype) -> list[Case]:
    options = ((1, "swiglu", True), (3, "geglu_tanh", False), (5, "geglu_exact", True))
    cases = [
        _case((rows,), (200, 200), (kind, kind), dtype, gate=gate, normed=normed)
        for rows, gate, normed in options
        for kind in (None, _PACKED)
    ]
    return [*cases, _case((70,), (40, 40), (_PACKED, _OTHER), dtype, gate="swiglu", normed=True)]


def _rest(dtype: mx.Dtype) -> list[Case]:
    added = [
        _case((2, rows), (72,), (kind,), dtype, residual=True, normed=rows == 1)
        for rows in (1, 2, 9)
        for kind in (None, _PACKED, _OTHER)
    ]
    mixed = [
        _case((rows,), (40, 24), (_PACKED, other), dtype, biased=True) for rows in (1, 12) for other in (None, _OTHER)
    ]
    return [*added, *mixed]


PROJECT = tuple(case for dtype in _DTYPES for make in (_qkv, _gated, _rest) for case in make(dtype))
