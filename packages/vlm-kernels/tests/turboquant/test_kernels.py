"""The GPU kernels' text, run under emulation against the reference."""

from __future__ import annotations

import functools

import mlx.core as mx
import pytest

from vlm_kernels import emulate
from vlm_kernels.testing import random, relative_error
from vlm_kernels.turboquant import Spec, cuda, dense, kernels, metal, reference
from vlm_kernels.turboquant.cases import ATTENTION
from vlm_kernels.turboquant.kernels import Dialect
from vlm_kernels.turboquant.masks import KeyMask
from vlm_kernels.turboquant.packing import unpack

pytestmark = pytest.mark.skipif(emulate.compiler() is None, reason="no C++ compiler to run kernel text with")

METAL = Dialect("metal", emulate.metal_kernel, block_threads=256, encode_threads=256)
CUDA = Dialect("cuda", emulate.cuda_kernel, block_threads=1024, encode_threads=512)
# One of each kind by default; the rest are slow, since every template is compiled anew.
QUICK = {"ragged", "window"}
cases = [pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow, id=case.name) for case in ATTENTION]
tensor_core_cases = [
    param
    for case, param in zip(ATTENTION, cases)
    if {case.head_size, case.value_size or case.head_size} <= set(cuda.HEAD_SIZES)
    and max(case.key_bits, case.value_bits) <= cuda.MAX_BITS
]


@pytest.mark.parametrize("dialect", [METAL, CUDA], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("case", cases)
def test_scan(case, dialect):
    q, keys, values, scale, mask = case.build()
    want = reference.attention(q, keys, values, scale=scale, mask=mask)
    got, _ = kernels.scan(dialect, q, keys, values, scale, mask, 6)
    assert relative_error(got, want) < (1e-5 if case.dtype == mx.float32 else 4e-3)


@pytest.mark.parametrize("num_splits", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", tensor_core_cases)
def test_tensor_core_decode(case, num_splits):
    q, keys, values, scale, mask = case.build()
    want = reference.attention(q, keys, values, scale=scale, mask=mask)
    got, _ = cuda.decode_attention(CUDA, q, keys, values, scale=scale, mask=mask, num_splits=num_splits)
    assert relative_error(got, want) < (2e-4 if case.dtype == mx.float32 else 4e-3)


@pytest.mark.parametrize("dialect", [METAL, CUDA], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("head_size", "bits", "together"),
    [
        (64, 3, False),
        (72, 7, True),
        *(
            pytest.param(*args, marks=pytest.mark.slow)
            for args in ((128, 4, True), (256, 1, False), (112, 5, False), (512, 8, True))
        ),
    ],
)
def test_encode(dialect, head_size, bits, together, monkeypatch):
    monkeypatch.setattr(kernels, "MANY_VECTORS", 1 if together else 10**9)
    x = random((2, 1, 5, head_size), seed=1)
    x[0, 0, 0] = 0
    want, got = reference.encode(x, Spec(bits, head_size)), kernels.encode(dialect, x, Spec(bits, head_size))
    # Sums in another order: a coordinate next to a threshold may fall on its other side.
    differs = unpack(want.codes, bits, head_size) != unpack(got.codes, bits, head_size)
    assert differs.sum().item() <= 1
    assert relative_error(got.norms, want.norms) < 5e-3


@pytest.mark.parametrize("dialect", [METAL, CUDA], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("bits", [7, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (1, 3, 4, 6, 8))])
def test_unpack(dialect, bits):
    packed = reference.encode(random((2, 3, 20, 72), seed=1, scale=5.0), Spec(bits, 72))
    got = kernels.unpack(dialect, packed, 1, 3, 17, mx.full((8,), 0.5))
    assert relative_error(got, 0.5 * reference.rotated_values(packed)[:, 1:3, :17]) < 1e-3


@pytest.mark.parametrize(
    "mask",
    [
        KeyMask(),
        KeyMask(lengths=50, offsets=30),
        KeyMask(lengths=mx.array([50, 33]), offsets=mx.array([30, 13])),
        KeyMask(lengths=64, offsets=40, window=12),
        KeyMask(lengths=mx.array([50, 0])),
    ],
    ids=["none", "causal", "ragged", "window", "empty row"],
)
@pytest.mark.parametrize("workspace", [1, 2**30])
def test_dense_attention_in_groups_of_heads(mask, workspace, monkeypatch):
    monkeypatch.setattr(dense, "WORKSPACE_BYTES", workspace)
    q = random((2, 8, 20, 64), seed=1)
    # Norms far from 1, on either side.
    keys = reference.encode(random((2, 2, 70, 64), seed=2, scale=100.0), Spec(3, 64))
    values = reference.encode(random((2, 2, 70, 64), seed=3, scale=1e-3), Spec(4, 64))
    want = reference.attention(q, keys, values, scale=0.00125, mask=mask)
    unpack_heads = functools.partial(kernels.unpack, METAL)
    got = dense.dense_attention(unpack_heads, q, keys, values, scale=0.00125, mask=mask)
    assert relative_error(got, want) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("backend", [metal, cuda], ids=["metal", "cuda"])
def test_each_kind_of_call_takes_a_path(backend, monkeypatch):
    language = METAL if backend is metal else CUDA
    monkeypatch.setattr(backend, "dialect", lambda: language)
    for name, queries, dtype in (("plain", 1, mx.bfloat16), ("plain", 20, mx.bfloat16), ("plain", 20, mx.float32)):
        case = next(case for case in ATTENTION if case.name == name)
        _, keys, values, scale, mask = case.build()
        q = random((1, 4, queries, case.head_size), dtype, seed=5)
        want = reference.attention(q.astype(mx.float32), keys, values, scale=scale, mask=mask)
        assert relative_error(backend.attention(q, keys, values, scale=scale, mask=mask), want) < 1e-2
        assert backend.encode(random((1, 1, 2, 64)), Spec(3, 64)).codes.shape == (1, 1, 2, 6)


@pytest.mark.skipif(emulate.front_end() is None, reason="no clang to check address spaces with")
@pytest.mark.parametrize("case", cases)
def test_metal_address_spaces(case):
    language = Dialect("metal", emulate.address_space_kernel, block_threads=256, encode_threads=256)
    q, keys, values, scale, mask = case.build()
    kernels.scan(language, q, keys, values, scale, mask, 6)
    kernels.encode(language, random((1, 1, 8, case.head_size), case.dtype), keys.spec)
    kernels.unpack(language, values, 0, 1, 8, mx.ones(8))
