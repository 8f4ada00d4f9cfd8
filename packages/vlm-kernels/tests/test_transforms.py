"""Gradients, vmap, compile, strides, special values and threads, on the path each op takes here."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import vlm_kernels as kernels
from vlm_kernels import float64
from vlm_kernels.attention.cases import ATTENTION, BLOCK_ATTENTION
from vlm_kernels.gated_activation.cases import GEGLU, SWIGLU
from vlm_kernels.linear.cases import LINEAR, MATMUL
from vlm_kernels.norm.cases import LAYER_NORM, RMS_NORM
from vlm_kernels.quantized_matmul.cases import GATHER_QUANTIZED_MATMUL, QUANTIZED_MATMUL, weights
from vlm_kernels.rope.cases import ROPE
from vlm_kernels.testing import Case, random, relative_error


def _float32(cases: tuple[Case, ...], step: int) -> list[Case]:
    plain = [case for case in cases if "float32" in case.name and "(0" not in case.name and ", 0" not in case.name]
    return plain[::step]


# op, cases, positions of the arguments that have a gradient
DIFFERENTIABLE: dict[str, tuple[list[Case], tuple[int, ...]]] = {
    "attention": (_float32(ATTENTION, 3), (0, 1, 2)),
    "block_attention": (_float32(BLOCK_ATTENTION, 1), (0, 1, 2)),
    "gather_quantized_matmul": (_float32(GATHER_QUANTIZED_MATMUL, 2), (0,)),
    "geglu": (_float32(GEGLU, 1), (0, 1)),
    "layer_norm": (_float32(LAYER_NORM, 3), (0, 1, 2)),
    "linear": (_float32(LINEAR, 1), (0, 1, 2)),
    "matmul": (_float32(MATMUL, 1), (0, 1)),
    "quantized_matmul": (_float32(QUANTIZED_MATMUL, 5), (0,)),
    "rms_norm": (_float32(RMS_NORM, 2), (0, 1)),
    "rope": (_float32(ROPE, 1), (0,)),
    "swiglu": (_float32(SWIGLU, 1), (0, 1)),
}


@pytest.mark.parametrize(
    ("op", "case"),
    [pytest.param(op, case, id=f"{op}-{case.name}") for op, (cases, _) in DIFFERENTIABLE.items() for case in cases],
)
def test_gradient_is_that_of_the_reference(op: str, case: Case) -> None:
    args, kwargs = case.build()
    places = [i for i in DIFFERENTIABLE[op][1] if args[i] is not None]
    output = getattr(kernels, op)(*args, **kwargs)
    seed = random(output.shape, seed=9)

    def loss(*variables: mx.array) -> mx.array:
        full = list(args)
        for place, variable in zip(places, variables):
            full[place] = variable
        return mx.sum(getattr(kernels, op)(*full, **kwargs) * seed)

    variables = [args[i] for i in places]
    argnums = tuple(range(len(variables)))
    got = mx.grad(loss, argnums=argnums)(*variables)
    with kernels.use("reference"):
        want = mx.grad(loss, argnums=argnums)(*variables)
    for one, other in zip(got, want):
        assert one.dtype == other.dtype
        assert relative_error(one, other) < 2e-5


def test_gradient_in_half_precision_keeps_the_dtype() -> None:
    x, w = random((6, 64), mx.bfloat16), random((32, 64), mx.bfloat16, seed=1)
    packed = weights((32, 64), mx.bfloat16, 64, 4, "affine")
    for function in (lambda x: kernels.linear(x, w).sum(), lambda x: kernels.quantized_matmul(x, *packed).sum()):
        assert mx.grad(function)(x).dtype == mx.bfloat16


@pytest.mark.parametrize("options", [{"gate": "swiglu"}, {"residual": True}, {}])
def test_project_has_the_gradient_of_its_pieces(options: dict[str, Any]) -> None:
    x, weight = random((3, 64)), random((64,), seed=5)
    layers = [
        kernels.Projection(*weights((32, 64), mx.float32, 32, 4, "affine", seed=1), random((32,), seed=3), 32),
        kernels.Projection(random((32, 64), seed=2, scale=0.1)),
    ]
    residual = random((3, 32), seed=6) if "residual" in options else None
    used = layers[:1] if "residual" in options else layers

    def loss(x: mx.array, weight: mx.array) -> mx.array:
        parts = kernels.project(x, used, norm_weight=weight, eps=1e-6, gate=options.get("gate", ""), residual=residual)
        return sum(mx.sum(mx.sin(part)) for part in parts)

    got = mx.grad(loss, argnums=(0, 1))(x, weight)
    mapped = mx.vmap(loss, in_axes=(0, None))(mx.stack([x, 2 * x]), weight)
    with kernels.use("reference"):
        want = mx.grad(loss, argnums=(0, 1))(x, weight)
        apart = mx.stack([loss(x, weight), loss(2 * x, weight)])
    assert all(relative_error(one, other) < 2e-5 for one, other in zip(got, want))
    assert relative_error(mapped, apart) < 1e-4


def test_gradient_of_qqmm_passes_the_rounding() -> None:
    x = random((3, 64))
    w, scales, _ = weights((40, 64), mx.float32, 32, 8, "mxfp8")
    options = {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    got = mx.grad(lambda x: kernels.quantized_qqmm(x, w, scales, **options).sum())(x)
    want = float64.dequantize(w, scales, None, 32, 8, "mxfp8").sum(0)
    assert relative_error(got, np.broadcast_to(want, x.shape)) < 1e-5


VMAPPED: dict[str, Any] = {
    "linear": lambda x, w: kernels.linear(x, w),
    "matmul": lambda x, w: kernels.matmul(x, w.T),
    "rms_norm": lambda x, w: kernels.rms_norm(x, w[0], 1e-6),
    "layer_norm": lambda x, w: kernels.layer_norm(x, w[0], w[1], 1e-6),
    "swiglu": lambda x, w: kernels.swiglu(x, x * 2),
    "geglu": lambda x, w: kernels.geglu(x, x * 2),
    "rope": lambda x, w: kernels.rope(x.reshape(1, 1, 5, 64), mx.cos(w[None, :5, :32]), mx.sin(w[None, :5, :32])),
    "attention": lambda x, w: kernels.attention(*(a.reshape(1, 1, -1, 64) for a in (x, w, w)), scale=0.1),
}


@pytest.mark.parametrize("op", VMAPPED)
@pytest.mark.parametrize("axes", [(0, None), (0, 0), (1, None)])
def test_vmap_is_a_loop(op: str, axes: tuple[int | None, ...]) -> None:
    function = VMAPPED[op]
    x = random((5, 3, 64) if axes[0] == 1 else (3, 5, 64))
    w = random((7, 64) if axes[1] is None else (3, 7, 64), seed=1)
    got = mx.vmap(function, in_axes=axes)(x, w)
    rows = [x[:, i] if axes[0] == 1 else x[i] for i in range(3)]
    want = mx.stack([function(row, w if axes[1] is None else w[i]) for i, row in enumerate(rows)])
    assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize("batched_weights", [False, True])
def test_vmap_of_quantized_matmul(batched_weights: bool) -> None:
    x = random((3, 5, 64))
    packed = weights((3, 24, 64) if batched_weights else (24, 64), mx.float32, 32, 4, "affine")
    axis = 0 if batched_weights else None

    def function(x: mx.array, w: mx.array, s: mx.array, b: mx.array) -> mx.array:
        return kernels.quantized_matmul(x, w, s, b, group_size=32)

    got = mx.vmap(function, in_axes=(0, axis, axis, axis))(x, *packed)
    want = mx.stack([function(x[i], *((p[i] for p in packed) if batched_weights else packed)) for i in range(3)])
    assert relative_error(got, want) < 1e-5


def test_quantized_matmul_with_a_stack_of_weights() -> None:
    x = random((3, 5, 64))
    packed = weights((3, 24, 64), mx.float32, 32, 4, "affine")
    got = kernels.quantized_matmul(x, *packed, group_size=32)
    assert relative_error(got, float64.quantized_matmul(x, *packed, group_size=32)) < 1e-5


def test_compile_gives_the_same() -> None:
    x, w = random((4, 64)), random((32, 64), seed=1)
    packed = weights((64, 32), mx.float32, 32, 4, "affine")

    def function(x: mx.array) -> mx.array:
        return kernels.quantized_matmul(kernels.linear(x, w), *packed, group_size=32)

    assert relative_error(mx.compile(function)(x), function(x)) < 1e-6


def test_strided_inputs() -> None:
    """Slices, transposes, offsets and reversed axes, as they come out of projections and caches."""
    base = random((2, 9, 6, 80), mx.bfloat16)
    q = base.transpose(0, 2, 1, 3)[:, :, 2:7]
    cache = random((2, 3, 40, 80), mx.bfloat16, seed=1)
    k, v = cache[:, :, 3:25], cache[:, :, 9:31]
    got = kernels.attention(q, k, v, scale=0.1, mask="causal")
    assert relative_error(got, float64.attention(q, k, v, scale=0.1, mask="causal")) < 5e-3
    merged = got.transpose(0, 2, 1, 3).reshape(2, 5, 480)
    assert relative_error(merged, np.array(got.astype(mx.float32)).transpose(0, 2, 1, 3).reshape(2, 5, 480)) == 0
    x = random((64, 7), seed=2).T
    w = random((96, 33), seed=3)[16:80].T
    assert relative_error(kernels.linear(x, w), float64.linear(x, w)) < 2e-6
    assert relative_error(kernels.linear(x[::-1], w[::-2]), float64.linear(x[::-1], w[::-2])) < 2e-6
    assert relative_error(kernels.matmul(x, w.T), float64.matmul(x, w.T)) < 2e-6
    wide = mx.broadcast_to(random((1, 64), seed=4), (5, 64))
    assert relative_error(kernels.rms_norm(wide, None, 1e-6), float64.rms_norm(wide, None, 1e-6)) < 2e-6
    turned = base.transpose(0, 2, 1, 3)[:, ::2]
    cos, sin = mx.cos(random((1, 9, 20))), mx.sin(random((1, 9, 20)))
    assert relative_error(kernels.rope(turned, cos, sin), float64.rope(turned, cos, sin)) < 4e-3
    packed = weights((64, 64), mx.float32, 32, 4, "affine")
    half = tuple(part[8:40] for part in packed)
    assert (
        relative_error(
            kernels.quantized_matmul(x, *half, group_size=32), float64.quantized_matmul(x, *half, group_size=32)
        )
        < 2e-6
    )


def test_a_query_that_sees_nothing_gets_zeros() -> None:
    q, k = random((1, 2, 6, 64)), random((1, 2, 3, 64), seed=1)
    causal = kernels.attention(q, k, k, scale=0.1, mask="causal")
    assert mx.all(causal[:, :, :3] == 0).item()
    assert mx.all(mx.any(causal[:, :, 3:] != 0, axis=-1)).item()
    hidden = mx.zeros((1, 1, 6, 3), dtype=mx.bool_)
    assert mx.all(kernels.attention(q, k, k, scale=0.1, mask=hidden) == 0).item()
    assert mx.all(kernels.attention(q[:, :, :1], k, k, scale=0.1, mask=hidden[:, :, :1]) == 0).item()
    assert kernels.attention(q, k[:, :, :0], k[:, :, :0], scale=0.1).shape == q.shape


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_special_values_stay_where_they_belong(value: float, dtype: mx.Dtype) -> None:
    x = random((6, 128), dtype)
    x[2, 5] = value
    w = random((40, 128), dtype, seed=1)
    packed = weights((40, 128), dtype, 64, 4, "affine")
    up = random((6, 128), dtype, seed=2)
    for name, function in (
        ("linear", lambda x: kernels.linear(x, w)),
        ("linear of one row", lambda x: kernels.linear(x[2:3], w)),
        ("quantized_matmul", lambda x: kernels.quantized_matmul(x, *packed)),
        ("quantized_matmul of one row", lambda x: kernels.quantized_matmul(x[2:3], *packed)),
        ("rms_norm", lambda x: kernels.rms_norm(x, None, 1e-6)),
        ("layer_norm", lambda x: kernels.layer_norm(x, None, None, 1e-6)),
        ("swiglu", lambda x: kernels.swiglu(x, up)),
        ("geglu", lambda x: kernels.geglu(x, up)),
        ("attention", lambda x: kernels.attention(x[None, None], up[None, None], up[None, None], scale=0.1)),
        (
            "attention of one row",
            lambda x: kernels.attention(x[None, None, 2:3], up[None, None], up[None, None], scale=0.1),
        ),
    ):
        got = np.isfinite(np.array(function(x).astype(mx.float32)))
        with kernels.use("reference"):
            want = np.isfinite(np.array(function(x).astype(mx.float32)))
        assert np.array_equal(got, want), name


def test_experts_out_of_range_are_an_error_or_zero_not_a_crash() -> None:
    x = random((2, 1, 1, 64))
    packed = weights((4, 32, 64), mx.float32, 32, 4, "affine")
    inside = kernels.gather_quantized_matmul(x, *packed, rhs_indices=mx.array([[3], [0]]), group_size=32)
    assert (
        relative_error(inside[0, 0], float64.quantized_matmul(x[0, 0], *(p[3] for p in packed), group_size=32)) < 1e-5
    )


def test_streams_and_threads_do_not_disturb_each_other() -> None:
    x, w = random((64, 256)), random((512, 256), seed=1)
    want = float64.linear(x, w)
    errors: list[float] = []

    def work() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(20):
                errors.append(relative_error(kernels.linear(x, w), want))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 60
    assert max(errors) < 2e-6
