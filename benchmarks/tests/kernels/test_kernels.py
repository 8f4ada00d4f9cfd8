"""The kernel benchmark's own arithmetic: what it times, counts and compares."""

from __future__ import annotations

import mlx.core as mx
import pytest

import vlm_kernels
from vlm_benchmarks.kernels import acceptance
from vlm_benchmarks.kernels.__main__ import run_measure
from vlm_benchmarks.kernels.decoder import Decoder, Geometry
from vlm_benchmarks.kernels.errors import Errors
from vlm_benchmarks.kernels.measures import Measure
from vlm_benchmarks.kernels.timing import best_of

TINY = Geometry(dim=64, hidden=128, heads=4, key_heads=2, head_size=32, layers=2, vocabulary=96)


def test_every_function_takes_its_turn() -> None:
    order: list[str] = []
    best = best_of({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0, least=3)
    assert order == ["a", "b"] * 3
    assert set(best) == {"a", "b"}
    assert all(value < 1 for value in best.values())


def test_decoder_steps_give_what_one_prefill_gives() -> None:
    tokens = mx.array([3, 14, 15, 92, 65])
    whole = Decoder(TINY, 8).step(tokens, 0)
    stepped = Decoder(TINY, 8)
    for i in range(5):
        token = stepped.step(tokens[i : i + 1], i)
    assert token.item() == whole.item()


def test_parameters_are_counted() -> None:
    assert Geometry().parameters == 8 * (2048 * 128 * 48 + 3 * 2048 * 8192) + 32000 * 2048


@pytest.mark.skipif(not vlm_kernels.backends().native.loaded, reason="needs the native CPU library")
def test_a_measure_is_a_share_of_its_roof() -> None:
    x = mx.ones((64, 256))
    measure = Measure(
        name="tiny",
        ours=lambda: mx.eval(vlm_kernels.linear(x, x)),
        work=2.0 * 64 * 64 * 256,
        roof="float32",
        stock=lambda: mx.eval(x @ x.T),
        error=lambda: (0.0, 0.0),
    )
    result = run_measure(measure, 0, with_stock=True)
    assert 0 < result["of_roof"] < 1.5
    assert result["times_stock"] > 0


def test_rows_say_what_holds_and_what_is_missed() -> None:
    result = {
        "measures": [
            {"name": "quantized_matmul M=1 x", "roof": "read", "of_roof": 0.8, "times_stock": 200.0},
            {"name": "attention causal", "roof": "bfloat16", "of_roof": 0.1, "times_stock": 90.0},
        ],
        "demo": 2.0,
        "memory": {"of_bound": 1.1},
        "errors": [{"holds": True}],
    }
    held = {row.name.split(",")[0]: row.holds for row in acceptance.rows(result)}
    assert held == {
        "quantized_matmul M=1 x": True,
        "attention causal": False,
        "embedded model": True,
        "peak memory of load and generate": False,
        "errors above stock's": True,
    }


def test_errors_are_judged_by_stock_and_by_one_rounding() -> None:
    assert Errors("linear", "bfloat16", "", ours=5e-3, stock=2e-2).holds
    assert Errors("linear", "bfloat16", "", ours=2e-3, stock=1e-3).holds
    assert not Errors("linear", "bfloat16", "", ours=2e-2, stock=1e-2).holds
    assert not Errors("quantized_qqmm", "float32", "nvfp4", ours=1e-4, stock=None).holds
