"""Errors of every op, dtype and mode on its cases, against float64: ours and stock MLX's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import vlm_kernels as kernels
from vlm_kernels import float64
from vlm_kernels.attention.cases import ATTENTION, BLOCK_ATTENTION
from vlm_kernels.gated_activation.cases import GEGLU, SWIGLU
from vlm_kernels.linear.cases import LINEAR, MATMUL
from vlm_kernels.norm.cases import LAYER_NORM, RMS_NORM
from vlm_kernels.project.cases import PROJECT
from vlm_kernels.quantized_matmul.cases import GATHER_QUANTIZED_MATMUL, QUANTIZED_MATMUL, QUANTIZED_QQMM
from vlm_kernels.rope.cases import ROPE
from vlm_kernels.testing import Case, relative_error

CASES: dict[str, tuple[Case, ...]] = {
    "attention": ATTENTION,
    "block_attention": BLOCK_ATTENTION,
    "gather_quantized_matmul": GATHER_QUANTIZED_MATMUL,
    "geglu": GEGLU,
    "layer_norm": LAYER_NORM,
    "linear": LINEAR,
    "matmul": MATMUL,
    "project": PROJECT,
    "quantized_matmul": QUANTIZED_MATMUL,
    "quantized_qqmm": QUANTIZED_QQMM,
    "rms_norm": RMS_NORM,
    "rope": ROPE,
    "swiglu": SWIGLU,
}
# What one rounding of the result may cost relative to the largest value, and sums in float32.
ROUNDING = {mx.float32: 1e-6, mx.float16: 2**-11, mx.bfloat16: 2**-8}


def _stock_rope(x: mx.array, cos: mx.array, sin: mx.array, *, interleaved: bool = False) -> mx.array:
    half = cos.shape[-1]
    cos, sin = cos.astype(x.dtype)[:, None], sin.astype(x.dtype)[:, None]
    turning, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
        turned = mx.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(turning.shape)
    else:
        first, second = turning[..., :half], turning[..., half:]
        turned = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return mx.concatenate([turned, rest], axis=-1)


def _stock_geglu(gate: mx.array, up: mx.array, approximate: str = "tanh") -> mx.array:
    return (nn.gelu_approx(gate) if approximate == "tanh" else nn.gelu(gate)) * up


# Ops that MLX has under another name or in pieces; qqmm it does not have on a CPU.
_STOCK: dict[str, Callable[..., Any] | None] = {
    "rope": _stock_rope,
    "swiglu": lambda gate, up: nn.silu(gate) * up,
    "geglu": _stock_geglu,
    "quantized_qqmm": None,
}


@dataclass(frozen=True)
class Errors:
    """Largest relative errors over the cases of one op, dtype and mode; stock is None where MLX has no such op."""

    op: str
    dtype: str
    mode: str
    ours: float
    stock: float | None

    @property
    def holds(self) -> bool:
        """No worse than stock, or within one rounding of the result."""
        bound = ROUNDING[getattr(mx, self.dtype)]
        return self.ours <= (bound if self.stock is None else max(self.stock, bound))


def _mode(op: str, kwargs: dict[str, Any]) -> str:
    if "mode" in kwargs:
        return f"{kwargs['mode']} {kwargs['bits']} bits, groups of {kwargs['group_size']}"
    return str(kwargs.get("approximate") or kwargs.get("gate") or "")


def _worst(results: Any, expected: Any) -> float:
    if not isinstance(expected, tuple):
        results, expected = (results,), (expected,)
    return max(relative_error(one, other) for one, other in zip(results, expected, strict=True))


def errors() -> list[Errors]:
    """One row for each op, dtype and mode."""
    rows: dict[tuple[str, str, str], list[tuple[float, float | None]]] = {}
    for op, cases in CASES.items():
        for case in cases:
            args, kwargs = case.build()
            if args[0].size == 0:  # nothing to compare, and some of MLX's own ops divide by zero
                continue
            result = getattr(kernels, op)(*args, **kwargs)
            expected = getattr(float64, op)(*args, **kwargs)
            stock: float | None = None
            if _STOCK.get(op, op) is not None:
                with kernels.use("mlx"):
                    stock = _worst(_STOCK.get(op, getattr(kernels, op))(*args, **kwargs), expected)
            dtype = str(args[0].dtype).removeprefix("mlx.core.")
            rows.setdefault((op, dtype, _mode(op, kwargs)), []).append((_worst(result, expected), stock))
    return [
        Errors(
            *key,
            max(ours for ours, _ in found),
            None if found[0][1] is None else max(s for _, s in found if s is not None),
        )
        for key, found in sorted(rows.items())
    ]
