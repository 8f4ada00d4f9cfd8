"""Random shapes, dtypes and layouts against float64, on the path each op takes here."""

from __future__ import annotations

import mlx.core as mx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vlm_kernels as kernels
from vlm_kernels import float64
from vlm_kernels.quantized_matmul.cases import FORMATS, weights
from vlm_kernels.testing import random, relative_error

BOUND = {mx.float32: 4e-6, mx.float16: 8e-4, mx.bfloat16: 5e-3}
DTYPES = st.sampled_from(list(BOUND))
QUICK = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@QUICK
@given(
    m=st.integers(0, 40),
    n=st.integers(1, 90),
    k=st.integers(1, 150),
    dtype=DTYPES,
    biased=st.booleans(),
    skip=st.integers(0, 3),
)
def test_linear(m: int, n: int, k: int, dtype: mx.Dtype, biased: bool, skip: int) -> None:
    x = random((m, k + skip), dtype)[:, skip:]
    w = random((n + skip, k), dtype, seed=1, scale=k**-0.5)[skip:]
    bias = random((n,), dtype, seed=2) if biased else None
    assert relative_error(kernels.linear(x, w, bias), float64.linear(x, w, bias)) <= BOUND[dtype]


@QUICK
@given(
    batch=st.integers(1, 5),
    m=st.integers(1, 20),
    n=st.integers(1, 40),
    k=st.integers(1, 70),
    dtype=DTYPES,
    turned=st.booleans(),
)
def test_matmul(batch: int, m: int, n: int, k: int, dtype: mx.Dtype, turned: bool) -> None:
    a = random((batch, m, k), dtype)
    b = random((batch, n, k), dtype, seed=1).swapaxes(1, 2) if turned else random((1, k, n), dtype, seed=1)
    assert relative_error(kernels.matmul(a, b), float64.matmul(a, b)) <= BOUND[dtype]


@QUICK
@given(
    m=st.integers(0, 30), n=st.integers(1, 70), blocks=st.integers(1, 5),
    format_=st.sampled_from(FORMATS), dtype=DTYPES, start=st.integers(0, 5)
)  # fmt: skip
def test_quantized_matmul(
    m: int, n: int, blocks: int, format_: tuple[int, int, str], dtype: mx.Dtype, start: int
) -> None:
    group_size, bits, mode = format_
    k = max(blocks * group_size, 32)
    x = random((m + start, k), dtype)[start:]
    w, scales, biases = weights((n + start, k), dtype, *format_)
    part = (w[start:], scales[start:], None if biases is None else biases[start:])
    options = {"group_size": group_size, "bits": bits, "mode": mode}
    got = kernels.quantized_matmul(x, *part, **options)
    assert relative_error(got, float64.quantized_matmul(x, *part, **options)) <= BOUND[dtype]


@QUICK
@given(
    batch=st.integers(1, 2), group=st.integers(1, 4), key_heads=st.integers(1, 3), length=st.integers(1, 70),
    extra=st.integers(0, 90), size=st.integers(1, 100), value_size=st.integers(1, 70),
    dtype=DTYPES, mask=st.sampled_from(["none", "causal", "bool"]),
)  # fmt: skip
def test_attention(
    batch: int,
    group: int,
    key_heads: int,
    length: int,
    extra: int,
    size: int,
    value_size: int,
    dtype: mx.Dtype,
    mask: str,
) -> None:
    keys = length + extra
    q = random((batch, length, group * key_heads, size), dtype).swapaxes(1, 2)
    k = random((batch, key_heads, keys, size), dtype, seed=1)
    v = random((batch, key_heads, keys + 3, value_size), dtype, seed=2)[:, :, 3:]
    seen = None if mask == "none" else "causal" if mask == "causal" else random((length, keys), seed=3) > -0.5
    options = {"scale": size**-0.5, "mask": seen}
    assert relative_error(kernels.attention(q, k, v, **options), float64.attention(q, k, v, **options)) <= BOUND[dtype]
