"""Error-compensated rounding: MLX's own layout, less error than plain rounding where inputs are correlated."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vlm_convert import ConvertError
from vlm_convert.gptq import output_error, pack, round_matrix
from vlm_models import Quantization


def matrix(rows: int, columns: int, seed: int = 0) -> mx.array:
    values = np.random.default_rng(seed).normal(size=(rows, columns)) * 0.05
    return mx.array(values.astype(np.float32)).astype(mx.bfloat16)


def inputs(count: int, columns: int, rank: int) -> np.ndarray:
    """Correlated, with some loud columns."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, columns)) + 0.3 * rng.normal(size=(count, columns))
    return x * np.where(np.arange(columns) % 17 == 0, 6.0, 1.0)


def unpacked(weight: mx.array, scales: mx.array, biases: mx.array, how: Quantization) -> np.ndarray:
    """As a product computes with it: in float32."""
    wide = (scales.astype(mx.float32), biases.astype(mx.float32))
    return np.array(mx.dequantize(weight, *wide, how.group_size, how.bits))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_packed_as_mlx_packs_them(bits: int) -> None:
    weight, scales, _ = mx.quantize(matrix(8, 128), 32, bits)
    ones = mx.ones(scales.shape)
    codes = np.array(mx.dequantize(weight, ones, mx.zeros(scales.shape), group_size=32, bits=bits)).astype(np.uint32)
    assert np.array_equal(pack(codes, bits), np.array(weight))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_the_output_is_kept_better_than_by_plain_rounding(bits: int, group_size: int) -> None:
    weight, x = matrix(48, 128), inputs(400, 128, 24)
    how = Quantization(bits, group_size)
    made = round_matrix(weight, x.T @ x, how)
    dense = np.array(weight.astype(mx.float32))
    restored = unpacked(made.weight, made.scales, made.biases, how)
    true = np.linalg.norm(x @ (restored - dense).T) / np.linalg.norm(x @ dense.T)
    assert made.error == pytest.approx(true, rel=1e-3)
    assert made.error < 0.7 * made.plain_error
    plain = unpacked(*mx.quantize(weight, group_size, bits), how)
    assert made.plain_error == pytest.approx(output_error(dense, plain, x.T @ x), rel=1e-3)
    assert made.weight.shape == mx.quantize(weight, group_size, bits)[0].shape
    assert made.scales.dtype == made.biases.dtype == mx.bfloat16


@pytest.mark.parametrize("x", [np.zeros((4, 64)), np.eye(64)[:3], np.ones((5, 64))], ids=["nothing", "few", "equal"])
def test_poor_inputs_are_never_worse_than_plain_rounding(x: np.ndarray) -> None:
    made = round_matrix(matrix(16, 64), x.T @ x, Quantization(4, 32))
    assert np.isfinite(made.error) and made.error <= made.plain_error


def test_constant_groups_survive() -> None:
    weight = mx.concatenate([mx.zeros((4, 32)), mx.full((4, 32), 0.5)], axis=1).astype(mx.bfloat16)
    made = round_matrix(weight, np.eye(64), Quantization(4, 32))
    restored = mx.dequantize(made.weight, made.scales, made.biases, 32, 4)
    assert mx.allclose(restored, weight, atol=1e-3)


def test_what_it_cannot_round_is_named() -> None:
    with pytest.raises(ConvertError, match="affine"):
        round_matrix(matrix(8, 64), np.eye(64), Quantization(4, 32, "mxfp4"))
    with pytest.raises(ConvertError, match="divide"):
        round_matrix(matrix(8, 48), np.eye(48), Quantization(4, 32))
