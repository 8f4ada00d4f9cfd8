from __future__ import annotations

import json

import numpy as np
import pytest

from vlm_benchmarks.quality import attention_rows, distortion_rows, inner_product_rows, plot, tables
from vlm_benchmarks.quality.methods import turboquant_method, uniform_method
from vlm_benchmarks.quality.vectors import KINDS, vectors


def test_true_bits_count_scales_and_norms():
    assert turboquant_method(3, 128).true_bits == 3.125
    assert uniform_method(3, 128, 64).true_bits == 3.5


def test_a_method_restores_what_it_stored():
    x = vectors("random", 64, 50)
    for method in (turboquant_method(8, 64), uniform_method(8, 64, 64)):
        assert np.linalg.norm(method.restore(x) - x) / np.linalg.norm(x) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_each_kind(kind):
    x = vectors(kind, 64, 100)
    assert x.dtype == np.float32 and x.shape[1] == 64 and np.all(np.linalg.norm(x, axis=1) > 0)


def test_rows_and_report(tmp_path):
    results = {
        "distortion": distortion_rows((128,), (2, 4), ("random", "4 fixed 10x channels"), count=100),
        "inner products": inner_product_rows((64,), (3,), count=3000),
        "attention": attention_rows(num_keys=200, splits=((3, 4), (4, 4))),
    }
    random = [row for row in results["distortion"] if row["method"] == "turboquant" and row["vectors"] == "random"]
    assert all(row["distortion"] < 1.05 * row["gaussian"] for row in random)
    (product,) = results["inner products"]
    assert product["slope"] == pytest.approx(product["expected"], abs=0.01)
    turbo = {
        row["bits"]: row["error"]
        for row in results["attention"]
        if row["method"] == "turboquant" and row["keys"] == "random"
    }
    assert 0 < turbo["4/4"] < turbo["3/4"] < 1
    json.dumps(results)
    assert "| head size | vectors |" in tables(results)
    plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
