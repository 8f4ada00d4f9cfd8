from __future__ import annotations

import itertools

import numpy as np
import pytest

from vlm_kernels.turboquant import codebook

PUBLISHED = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}


@pytest.mark.parametrize("bits", PUBLISHED)
def test_distortion_is_that_of_lloyd_max(bits):
    assert codebook(bits).distortion <= 1.003 * PUBLISHED[bits]


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_stated_distortion_is_what_samples_show(bits):
    table, samples = codebook(bits), np.random.default_rng(0).standard_normal(200_000)
    magnitudes = table.values[: 2 ** (bits - 1)]
    nearest = magnitudes[np.searchsorted(table.thresholds, np.abs(samples))]
    assert np.mean((np.abs(samples) - nearest) ** 2) == pytest.approx(table.distortion, rel=0.02)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_top_bit_of_a_code_is_the_sign(bits):
    values = codebook(bits).values
    assert np.array_equal(values[2 ** (bits - 1) :], -values[: 2 ** (bits - 1)])
    assert np.all(np.diff(values[: 2 ** (bits - 1)]) > 0)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_few_bits_have_integer_levels(bits):
    table = codebook(bits)
    assert np.array_equal(table.values, np.float32(table.step) * table.levels.astype(np.float32))
    assert np.abs(table.levels).min() >= 1
    assert np.abs(table.levels).max() <= 63


def test_each_bit_divides_the_distortion():
    distortions = [codebook(bits).distortion for bits in range(1, 9)]
    assert all(after < before / 2.9 for before, after in itertools.pairwise(distortions))
