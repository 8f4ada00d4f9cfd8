"""The gated delta rule in chunks against the rule token by token."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vlm_models.layers.gated_delta import CausalConv, delta_chunks, delta_step, unit, unit_lower_inverse


def inputs(length: int, *, alike: bool) -> list[mx.array]:
    """q, k, v, log decay, beta of 2 rows and 3 heads. alike: keys that hardly differ, hardly forgotten and fully written."""
    rng = np.random.default_rng(length)
    q, k, v = (rng.normal(size=(2, 3, length, size)).astype(np.float32) for size in (8, 8, 5))
    decay, beta = -rng.exponential(size=(2, 3, length)), rng.uniform(size=(2, 3, length))
    if alike:
        k, decay, beta = 1 + 0.01 * k, 0.001 * decay, 0.999 + 0.001 * beta
    arrays = [mx.array(np.asarray(x, np.float32)) for x in (q, k, v, decay, beta)]
    return [unit(arrays[0]), unit(arrays[1]), *arrays[2:]]


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("length", [2, 7, 64, 65, 150])
def test_chunks_equal_steps(length: int, alike: bool) -> None:
    arrays = inputs(length, alike=alike)
    start = mx.array(np.random.default_rng(1).normal(size=(2, 3, 8, 5)).astype(np.float32))
    state, outputs = start, []
    for i in range(length):
        out, state = delta_step(*(x[:, :, i : i + 1] for x in arrays), state)
        outputs.append(out)
    chunked, last = delta_chunks(*arrays, start)
    np.testing.assert_allclose(np.array(chunked), np.array(mx.concatenate(outputs, axis=2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.array(last), np.array(state), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_inverse_of_a_triangle_stays_accurate_where_its_powers_explode(size: int) -> None:
    strict = np.tril(np.full((3, size, size), 0.999), -1)
    ours = np.array(unit_lower_inverse(mx.array(strict.astype(np.float32))))
    np.testing.assert_allclose(ours, np.linalg.inv(np.eye(size) + strict), atol=1e-5)


def test_a_convolution_in_pieces_equals_one_call() -> None:
    rng = np.random.default_rng(0)
    conv = CausalConv(6, 4)
    conv.weight = mx.array(rng.normal(size=(6, 4)).astype(np.float32))
    x = mx.array(rng.normal(size=(1, 11, 6)).astype(np.float32))
    whole, _ = conv(x, mx.zeros((1, 3, 6)))
    before, parts = mx.zeros((1, 3, 6)), []
    for start, stop in ((0, 1), (1, 3), (3, 11)):
        part, before = conv(x[:, start:stop], before)
        parts.append(part)
    padded = np.concatenate([np.zeros((3, 6)), np.array(x[0])])
    wanted = np.stack([(padded[i : i + 4].T * np.array(conv.weight)).sum(axis=1) for i in range(11)])
    np.testing.assert_allclose(np.array(whole[0]), wanted, atol=1e-5)
    np.testing.assert_allclose(np.array(mx.concatenate(parts, axis=1)), np.array(whole), atol=1e-6)
