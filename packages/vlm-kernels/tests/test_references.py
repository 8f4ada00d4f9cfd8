"""Every op on every case against float64, on the path it takes here and on the reference path."""

from __future__ import annotations

import mlx.core as mx
import pytest

import vlm_kernels
from vlm_kernels import float64
from vlm_kernels.attention.cases import ATTENTION, BLOCK_ATTENTION
from vlm_kernels.gated_activation.cases import GEGLU, SWIGLU
from vlm_kernels.linear.cases import LINEAR, MATMUL
from vlm_kernels.norm.cases import LAYER_NORM, RMS_NORM
from vlm_kernels.project.cases import PROJECT
from vlm_kernels.quantized_matmul.cases import GATHER_QUANTIZED_MATMUL, QUANTIZED_MATMUL, QUANTIZED_QQMM
from vlm_kernels.rope.cases import ROPE
from vlm_kernels.testing import Case, relative_error

CASES = {
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
# One rounding of the result, and float32 sums of a few hundred terms.
BOUND = {mx.float32: 2e-6, mx.float16: 6e-4, mx.bfloat16: 4e-3}


ALL = [pytest.param(op, case, id=f"{op}-{case.name}") for op, cases in CASES.items() for case in cases]


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize(("op", "case"), ALL)
def test_op_matches_float64(op: str, case: Case, path: str) -> None:
    args, kwargs = case.build()
    with vlm_kernels.use(path):
        result = getattr(vlm_kernels, op)(*args, **kwargs)
    expected = getattr(float64, op)(*args, **kwargs)
    if op != "project":
        result, expected = (result,), (expected,)
    for one, other in zip(result, expected, strict=True):
        assert relative_error(one, other) <= BOUND[one.dtype] * (2 if op == "project" else 1)


def test_every_registered_op_has_cases() -> None:
    own = {
        name
        for name, op in vlm_kernels.dispatch.ops().items()
        if op.reference.__module__.split(".")[1] not in ("turboquant",)
    }
    assert own == set(CASES)
